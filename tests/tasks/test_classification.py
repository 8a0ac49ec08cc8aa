from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax.config import MeshConfig, ModelConfig, Pooling, TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model.assembly import Blueprint, abstract_params, classifier_heads
from bertjax.model.params import Params, params_of
from bertjax.sharding import make_mesh
from bertjax.tasks.batches import Choice, evaluation_batches, make_batch
from bertjax.tasks.classification import (
    SequenceClassifier,
    classification_loss,
    label_names,
    logits,
    make_task,
    write_predictions,
)
from bertjax.tasks.text_examples import features
from bertjax.training.losses import objective
from bertjax.training.step import to_mesh
from tests.tasks.letters import Letters, example

MODEL = ModelConfig(vocab_size=100, width=16, layers=1, heads=2, mlp_width=32, max_positions=64)


def test_label_names_are_sorted_as_numbers_are() -> None:
    assert label_names([example("", label=label) for label in ("10", "9", "-1", "9", "2.5")]) == (
        "-1",
        "2.5",
        "9",
        "10",
    )
    assert label_names([example("", label=label) for label in ("b", "nan", "a", "1", None)]) == ("1", "a", "b", "nan")
    with pytest.raises(UserError, match=r"1 label: \['a'\]"):
        label_names([example("", label="a")])


def test_the_positive_label_is_the_last_of_two() -> None:
    """TFDS's names of MRPC's labels are in the other order than their numbers."""
    examples = [example("", label=label) for label in ("not_equivalent", "equivalent")]
    assert label_names(examples) == ("equivalent", "not_equivalent")
    assert label_names(examples, "equivalent") == ("not_equivalent", "equivalent")
    with pytest.raises(UserError, match="positive='same' is not one of two labels; there are 'equivalent', 'not_eq"):
        label_names(examples, "same")
    with pytest.raises(UserError, match="positive='a' is not one of two labels; there are 'a', 'b', 'c'"):
        label_names([example("", label=label) for label in "abc"], "a")


def test_what_is_odd_in_the_files_is_counted(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\na\tx\nb\ty\n\u200b\tz\n\tz\n")
    (tmp_path / "dev.tsv").write_text("text\tlabel\na b c a b c a b\tx\n")
    data = TaskDataConfig(train=str(tmp_path / "train.tsv"), validation=str(tmp_path / "dev.tsv"), seq_len=8)
    make_task(data, tokenizer, 0)
    told = capsys.readouterr().err.splitlines()
    assert "train: 2 of 4 examples without any token" in told
    assert "validation: 1 of 1 examples cut to 8 tokens" in told
    assert f"{tmp_path / 'dev.tsv'} has no example of 'y', 'z'" in told


def test_a_text_that_lacks_its_second_is_counted(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tsecond\tlabel\na\tb\tx\na\t\ty\n \tb\ty\n\t\tx\n")
    make_task(TaskDataConfig(train=str(path), validation=str(path), second="second"), tokenizer, 0)
    told = capsys.readouterr().err.splitlines()
    assert "train: 2 of 4 examples with one text of two" in told
    assert "train: 1 of 4 examples without any token" in told


def test_a_label_that_is_not_drawn_is_known(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "a\tx\nb\ty\n" * 20 + "c\tz\n")
    task = make_task(TaskDataConfig(train=str(path), validation=str(path), examples=2), tokenizer, 0)
    assert {example.label for example in task.parts["train"].examples} <= {"x", "y"}
    assert task.labels == ("x", "y", "z")


@pytest.mark.parametrize(
    ("labels", "submission", "fit"),
    [("01", "SST-2", True), ("np", "SST-2", False), ("01", "RTE", False), ("01", "mine", True)],
)
def test_labels_that_glues_server_does_not_take_are_said(
    tokenizer: Tokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    labels: str,
    submission: str,
    fit: bool,
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"text\tlabel\na\t{labels[0]}\nb\t{labels[1]}\n")
    data = TaskDataConfig(train=str(path), validation=str(path), test=str(path), submission=submission)
    make_task(data, tokenizer, 0)
    assert (f"{submission}.tsv will be none that GLUE's server takes" in capsys.readouterr().err) is not fit


@pytest.fixture
def mesh() -> Iterator[jax.sharding.Mesh]:
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    with jax.set_mesh(mesh):
        yield mesh


@functools.cache
def trained_nowhere(n_classes: int) -> SequenceClassifier:
    """A classifier with fresh weights; made once, since that is slow without jit."""
    return nnx.merge(*jax.jit(lambda: nnx.split(SequenceClassifier(MODEL, n_classes, rngs=nnx.Rngs(0))))())


TEXTS = ["abc", "d", "efghij", "kl", "mnopqrstuv", "w", "xyz", "ab", "cd", "ef", "gh"]
EXAMPLES = [example(text, None, "no" if i % 3 else "yes", i) for i, text in enumerate(TEXTS)]


jitted_loss = nnx.jit(classification_loss)
jitted_logits = nnx.jit(logits)


def losses(model: SequenceClassifier, mesh: jax.sharding.Mesh, *, batch_size: int, seq_len: int) -> tuple[float, float]:
    """Returns the sum of the losses and the number of rows."""
    made = features(EXAMPLES, Letters(), seq_len, ["no", "yes"])
    total = weight = 0.0
    for choice in evaluation_batches(made.lengths_N, batch_size, [seq_len]):
        sums = jitted_loss(model, to_mesh(make_batch(made, choice, batch_size), mesh), None)
        total, weight = total + float(sums["loss"][0]), weight + float(sums["loss"][1])
    return total, weight


def test_padding_and_batching_do_not_change_the_mean(mesh: jax.sharding.Mesh) -> None:
    whole, rows = losses(trained_nowhere(3), mesh, batch_size=16, seq_len=32)
    assert rows == len(EXAMPLES)
    assert losses(trained_nowhere(3), mesh, batch_size=4, seq_len=16) == pytest.approx((whole, rows), rel=1e-5)


def test_the_loss_is_the_mean_over_rows_with_weight(mesh: jax.sharding.Mesh) -> None:
    model = trained_nowhere(3)
    made = features(EXAMPLES, Letters(), 16, ["no", "yes"])
    batch = to_mesh(make_batch(made, Choice(np.array([0, 1, 2]), 16), 4), mesh)
    log_probability_BC = np.asarray(jax.nn.log_softmax(jitted_logits(model, batch)))
    sums = jitted_loss(model, batch, None)
    expected = -np.mean([log_probability_BC[row, label] for row, label in enumerate([1, 0, 0])])
    assert float(objective(sums)) == pytest.approx(expected, rel=1e-6)
    assert float(sums["accuracy"][0]) == sum(log_probability_BC[:3].argmax(1) == [1, 0, 0])


def test_dropout_is_on_exactly_with_a_key(mesh: jax.sharding.Mesh) -> None:
    model = trained_nowhere(3)
    batch = to_mesh(make_batch(features(EXAMPLES, Letters(), 16, ["no", "yes"]), Choice(np.arange(4), 16), 4), mesh)
    first, second = (np.asarray(jitted_logits(model, batch, jax.random.key(i))) for i in (0, 1))
    assert np.abs(first - second).max() > 1e-4
    np.testing.assert_array_equal(jitted_logits(model, batch), jitted_logits(model, batch))


def test_every_weight_learns(mesh: jax.sharding.Mesh) -> None:
    model = trained_nowhere(3)
    graphdef, params = nnx.split(model, nnx.Param)
    pairs = [example(text, text[::-1], "yes", i) for i, text in enumerate(TEXTS)]
    batch = to_mesh(make_batch(features(pairs, Letters(), 32, ["no", "yes"]), Choice(np.arange(4), 32), 4), mesh)
    grads = jax.jit(jax.grad(lambda params: objective(classification_loss(nnx.merge(graphdef, params), batch, None))))(
        params
    )
    silent = [jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(grads) if not jnp.any(g)]
    assert silent == []


def test_predictions_are_a_table(tmp_path: Path) -> None:
    examples = [example("a", label="no", index=0), example("b", index=1)]
    path = write_predictions(tmp_path / "p.tsv", examples, np.array([[0.25, 0.75], [0.5, 0.5]]), ["no", "yes"])
    assert path.read_text() == (
        "index\tprediction\tlabel\tprobability_no\tprobability_yes\n"
        "0\tyes\tno\t0.250000\t0.750000\n"
        "1\tno\t\t0.500000\t0.500000\n"
    )


@pytest.mark.usefixtures("mesh")
@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "weighted", "layers"])
def test_the_blueprint_of_a_classifier_has_its_weights(family: Literal["bert", "modernbert"], pooling: Pooling) -> None:
    c = dataclasses.replace(MODEL, family=family)
    b = Blueprint(c, classifier_heads(c, "classification", pooling), "classification", ("a", "b", "c"), pooling)

    def shapes(params: Params) -> dict[str, tuple[int, ...]]:
        return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}

    model = nnx.eval_shape(lambda: SequenceClassifier(c, 3, pooling=pooling, rngs=nnx.Rngs(0)))
    assert shapes(params_of(model)) == shapes(abstract_params(b))

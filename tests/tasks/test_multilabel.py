from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bertjax
import finetune
from bertjax.config import FinetuneConfig, MeshConfig, ModelConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.sharding import make_mesh
from bertjax.tasks.batches import Choice, make_batch
from bertjax.tasks.classification import SequenceClassifier, logits
from bertjax.tasks.multilabel import check_labels, features, make_task, multilabel_loss, write_predictions
from bertjax.tasks.text_examples import Columns, Example, read_examples
from bertjax.training.losses import objective
from bertjax.training.step import fresh_params, make_forward, to_mesh
from tests.conftest import OBJECTS, SUBJECTS, VERBS
from tests.tasks.letters import Letters


def test_labels_are_parted_by_bars_or_listed(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\na\twet| cold\nb\t\nc\tcold\n")
    found = read_examples(tmp_path / "a.tsv", Columns(), check_labels)
    assert [example.label for example in found] == ["cold|wet", "", "cold"]
    rows = [{"text": "a", "label": ["wet", "cold"]}, {"text": "b", "label": []}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_examples(tmp_path / "a.jsonl", Columns(), check_labels, label_required=False)
    assert [example.label for example in found] == ["cold|wet", "", None]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (7, "7 are no labels"),
        (["a|b"], "are no labels"),
        ([1], "are no labels"),
        ("damp|wet", "unknown label 'damp'; known are 'cold', 'wet'"),
    ],
)
def test_what_is_no_label_is_said_with_its_line(tmp_path: Path, label: object, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "label": label}) + "\n")
    check = functools.partial(check_labels, labels=["cold", "wet"])
    with pytest.raises(UserError, match=rf"a.jsonl:1: .*{message}".replace("|", r"\|")):
        read_examples(tmp_path / "a.jsonl", Columns(), check)


def test_targets_say_which_labels_there_are() -> None:
    examples = [Example("ab", None, "cold|wet", 0), Example("c", None, "", 1), Example("d", None, None, 2)]
    made = features(examples, Letters(), 8, ("cold", "dry", "wet"))
    assert made.targets["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    batch = make_batch(made, Choice(np.array([1, 0]), 4), 3)
    assert batch["labels"].tolist() == [[0, 0, 0], [1, 0, 1], [0, 0, 0]]


def test_loss_is_the_mean_over_texts_and_labels() -> None:
    model = ModelConfig(vocab_size=100, width=16, layers=1, heads=2, mlp_width=32, max_positions=64)
    examples = [Example("ab", None, "x", 0), Example("c", None, "", 1)]
    made = features(examples, Letters(), 8, ("x", "y", "z"))
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])

    def make_model(rngs: nnx.Rngs) -> SequenceClassifier:
        return SequenceClassifier(model, 3, rngs=rngs)

    with jax.set_mesh(mesh):
        forward = make_forward(make_model, lambda m, b: (multilabel_loss(m, b, None), logits(m, b)), "float32")
        batch = to_mesh(make_batch(made, Choice(np.array([0, 1]), 8), 4), mesh)
        sums, logits_BC = forward(fresh_params(make_model, 0), batch)
    sure_NC = 1 / (1 + np.exp(-np.asarray(logits_BC)[:2]))
    by_hand = -np.log(np.where(made.targets["labels"] > 0, sure_NC, 1 - sure_NC)).mean()
    assert float(objective(sums)) == pytest.approx(by_hand, rel=1e-5)


def test_predictions_are_a_table(tmp_path: Path) -> None:
    examples = [Example("a", None, "cold|wet", 0), Example("b", None, None, 1)]
    path = write_predictions(tmp_path / "p.tsv", examples, np.array([[0.0, 9.0], [9.0, 9.0]]), ("cold", "wet"))
    assert path.read_text() == (
        "index\tprediction\tlabel\tprobability_cold\tprobability_wet\n"
        "0\twet\tcold|wet\t0.500000\t0.999877\n1\tcold|wet\t\t0.999877\t0.999877\n"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"examples_per_class": 5}, "but a text may be of several classes; use --data.examples"),
        ({}, "has a label; there is nothing to learn"),
    ],
)
def test_what_cannot_be_learned_is_said(tmp_path: Path, data: dict[str, int], message: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\na\t\n")
    c = TaskDataConfig(train=str(path), validation=str(path), **data)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        make_task(c, Letters(), 0)  # type: ignore[arg-type]


def test_labels_are_those_of_the_file_whatever_is_drawn_and_absent_ones_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "a\tx\n" * 20 + "b\ty|z\n")
    (tmp_path / "b.tsv").write_text("text\tlabel\na\tx|z\n")
    c = TaskDataConfig(train=str(tmp_path / "a.tsv"), validation=str(tmp_path / "b.tsv"), examples=2)
    task = make_task(c, Letters(), 0)  # type: ignore[arg-type]
    assert [example.label for example in task.parts["train"].examples] == ["x", "x"]
    assert task.labels == ("x", "y", "z")
    assert f"{tmp_path / 'b.tsv'} has no example of 'y'" in capsys.readouterr().err.splitlines()


def write(path: Path, rows: int, seed: int) -> Path:
    """Writes sentences that are of water, of the road, of both or of neither."""
    rng = np.random.default_rng(seed)
    lines = ["text\tlabel"]
    for _ in range(rows):
        subject, verb, thing = (str(rng.choice(words)) for words in (SUBJECTS, VERBS, OBJECTS))
        labels = [
            *(["water"] if subject in ("the old river", "a small boat", "a grey heron") else []),
            *(["road"] if thing in ("the bridge", "the narrow road") else []),
        ]
        lines.append(f"{subject} {verb} {thing}.\t{'|'.join(labels)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_learns_any_number_of_labels_and_is_loaded_as_such(finished: Path, tmp_path: Path) -> None:
    c = FinetuneConfig(
        task="multilabel",
        init_from=str(finished),
        data=TaskDataConfig(
            train=str(write(tmp_path / "train.tsv", 200, 1)),
            validation=str(write(tmp_path / "validation.tsv", 40, 2)),
            seq_len=32,
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=5, batch_size=16, pooling="mean"),
    )
    figures = finetune.run(c, tmp_path / "run")
    assert figures["f1"] > 0.8 > figures["common_f1"]
    assert figures["exact"] <= 1
    rows = (tmp_path / "run" / "predictions-validation.tsv").read_text().splitlines()[1:]
    texts = [line.split("\t")[0] for line in (tmp_path / "validation.tsv").read_text().splitlines()[1:]]
    answers = bertjax.load(tmp_path / "run").classify(texts)
    assert ["|".join(answer["labels"]) for answer in answers] == [row.split("\t")[1] for row in rows]
    with pytest.raises(UserError, match="metric='accuracy' is no figure of multilabel"):
        finetune.metric_of(
            dataclasses.replace(c, train=dataclasses.replace(c.train, metric="accuracy")),
            make_task(c.data, Tokenizer.load(finished / "tokenizer"), 0),
        )

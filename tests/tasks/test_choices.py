from __future__ import annotations

import csv
import dataclasses
import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bertjax
import finetune
from bertjax import cli, pretrained
from bertjax.config import FinetuneConfig, MeshConfig, ModelConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig
from bertjax.errors import UserError
from bertjax.model.assembly import Assembly, Blueprint, classifier_heads
from bertjax.model.params import Params
from bertjax.sharding import make_mesh
from bertjax.tasks.batches import Features, evaluation_batches, make_batch
from bertjax.tasks.choices import LABELS, Example, choice_loss, features, logits, read_examples
from bertjax.training.losses import objective
from bertjax.training.step import fresh_params, make_forward, to_mesh
from tests.conftest import OBJECTS, SUBJECTS, VERBS
from tests.tasks.letters import Letters, readable

DATA = TaskDataConfig(text="sent1", second="sent2", choices=("ending0", "ending1"))
MODEL = ModelConfig(vocab_size=100, width=16, layers=2, heads=2, mlp_width=32, max_positions=16)
EXAMPLES = [
    Example("ab", ("cd", "e", "fgh"), "2", 0),
    Example("i", ("jklmn", "op", "q"), "0", 1),
    Example("abcdefgh", ("r", "stuvw", "xyz"), None, 2),
]


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def make_model(rngs: nnx.Rngs) -> Assembly:
    return Assembly(Blueprint(MODEL, ("pooler", "classifier"), "choice", LABELS), rngs=rngs)


def scores(made: Features, mesh: jax.sharding.Mesh) -> np.ndarray:
    """Returns what a model with large random weights gives each choice."""
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x: x * 5, fresh_params(make_model, 0))
        forward = make_forward(make_model, logits, "float32")
        found = np.zeros(made.targets["starts"].shape, np.float32)
        for choice in evaluation_batches(made.lengths_N, 2, [48]):
            batch = to_mesh(make_batch(made, choice, 2), mesh)
            found[choice.indices] = jax.device_get(forward(params, batch))[: len(choice.indices)]
    return found


def test_reads_swags_columns(tmp_path: Path) -> None:
    path = tmp_path / "val.csv"
    path.write_text(
        ",video-id,sent1,sent2,ending0,ending1,label\n"
        '0,v1,It rains.,The roof,"leaks, a little.",sings.,0\n'
        "1,v2,It snows.,A heron,sleeps.,,1\n"
    )
    assert read_examples(str(path), DATA, label_required=True) == [
        Example("It rains.", ("The roof leaks, a little.", "The roof sings."), "0", 0),
        Example("It snows.", ("A heron sleeps.", "A heron "), "1", 1),
    ]
    alone = dataclasses.replace(DATA, second=None)
    assert read_examples(str(path), alone, label_required=True)[0].choices == ("leaks, a little.", "sings.")
    path.write_text("sent1,sent2,ending0,ending1\nIt rains.,The roof,leaks.,sings.\n")
    assert read_examples(str(path), DATA, label_required=False)[0].label is None


def test_empty_texts_and_labels_that_are_none_of_a_test_file_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test.csv"
    path.write_text("sent1,sent2,ending0,ending1,label\na,b,c, ,-1\n,b,c,d,1\na,b,c,d,-1\n")
    found = read_examples(str(path), DATA, label_required=False)
    assert [example.label for example in found] == [None, "1", None]
    told = capsys.readouterr().err
    assert f"{path}: 2 of 3 examples with an empty text\n" in told
    assert f"{path}: 2 labels are taken as not known; the first: {path}:2: unknown label '-1'" in told


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 2}, r"a.jsonl:1: unknown label '2'; known are '0', '1'"),
        ({"label": "ending0"}, r"a.jsonl:1: unknown label 'ending0'; known are '0', '1'"),
        ({"ending1": None}, r"a.jsonl:1: column 'ending1' is null"),
        ({"sent2": 5}, r"a.jsonl:1: 5 is not a text"),
    ],
)
def test_mistakes_say_where(tmp_path: Path, row: dict[str, object], message: str) -> None:
    good = {"sent1": "a", "sent2": "b", "ending0": "c", "ending1": "d", "label": 0}
    (tmp_path / "a.jsonl").write_text(json.dumps(good | row))
    with pytest.raises(UserError, match=message):
        read_examples(str(tmp_path / "a.jsonl"), DATA, label_required=True)


def test_a_row_holds_the_pairs_side_by_side() -> None:
    made = features(EXAMPLES, Letters(), 8)
    assert [readable(row) for row in made.ids] == [
        "[ab]cd][ab]e][ab]fgh]",
        "[i]jklm][i]op][i]q]",
        "[abcd]r][abc]st][abc]xy]",
    ]
    assert "".join(map(str, made.segments[0])) == "000011100001100001111"
    assert made.targets["labels"].tolist() == [2, 0, -1]
    assert made.truncated == 4
    assert made.spans is not None
    for ids, spans, starts_K in zip(made.ids, made.spans, made.targets["starts"], strict=True):
        assert starts_K.tolist() == np.flatnonzero(ids == Letters.cls_id).tolist()
        assert spans.tolist() == (np.cumsum(ids == Letters.cls_id)).tolist()
    (choice,) = evaluation_batches(made.lengths_N, 3, [24])
    batch = make_batch(made, choice, 3)
    assert batch["positions"][0, :22].tolist() == [*range(7), *range(6), *range(8), 0]
    assert batch["spans"][0].tolist() == [1] * 7 + [2] * 6 + [3] * 8 + [0] * 3


def test_a_choice_has_the_score_that_it_has_alone(mesh: jax.sharding.Mesh) -> None:
    together = scores(features(EXAMPLES, Letters(), 12), mesh)
    assert np.ptp(together) > 1e-2
    for k in range(3):
        alone = [dataclasses.replace(example, choices=example.choices[k : k + 1]) for example in EXAMPLES]
        np.testing.assert_allclose(scores(features(alone, Letters(), 12), mesh)[:, 0], together[:, k], atol=2e-5)


def test_a_modernbert_chooses_without_a_pooler(mesh: jax.sharding.Mesh) -> None:
    modern = dataclasses.replace(MODEL, family="modernbert")
    heads = classifier_heads(modern, "choice")
    assert heads == ("transform", "classifier")
    made = features(EXAMPLES[:2], Letters(), 12)
    (choice,) = evaluation_batches(made.lengths_N, 2, [48])

    def make(rngs: nnx.Rngs) -> Assembly:
        return Assembly(Blueprint(modern, heads, "choice", LABELS), rngs=rngs)

    with jax.set_mesh(mesh):
        batch = to_mesh(make_batch(made, choice, 2), mesh)
        found = make_forward(make, logits, "float32")(fresh_params(make, 0), batch)
    assert found.shape == (2, 3)
    assert np.ptp(np.asarray(found), axis=1).min() > 0


def test_the_loss_is_over_the_choices_and_every_weight_learns(mesh: jax.sharding.Mesh) -> None:
    made = features(EXAMPLES[:2], Letters(), 12)
    (choice,) = evaluation_batches(made.lengths_N, 4, [48])
    with jax.set_mesh(mesh):
        params = jax.tree.map(lambda x: x * 5, fresh_params(make_model, 0))
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))
        batch = to_mesh(make_batch(made, choice, 4), mesh)

        def loss_of(params: Params) -> jax.Array:
            return objective(choice_loss(nnx.merge(graphdef, params), batch, None))

        loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    logits_NK = scores(made, mesh).astype(np.float64)
    log_p_NK = logits_NK - np.logaddexp.reduce(logits_NK, axis=1, keepdims=True)
    assert float(loss) == pytest.approx(-(log_p_NK[0, 2] + log_p_NK[1, 0]) / 2, rel=1e-5)
    flat = jax.tree.leaves_with_path(grads)
    silent = [jax.tree_util.keystr(path, simple=True, separator=".") for path, g in flat if np.abs(g).max() < 1e-6]
    assert [name.removesuffix(".value") for name in silent] == ["classifier.bias"]  # the same for every choice


def write(path: Path, rows: int, seed: int, *, labelled: bool = True) -> str:
    """Writes texts that go on rightly with their own subject."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["sent1", "sent2", "ending0", "ending1", *(["label"] if labelled else [])])
        for _ in range(rows):
            right, wrong = rng.sample(SUBJECTS, 2)
            ends = [f"{right} {rng.choice(VERBS)} {rng.choice(OBJECTS)}", f"{wrong} {rng.choice(VERBS)} some bread"]
            label = rng.randrange(2)
            ordered = ends if label == 0 else ends[::-1]
            table.writerow([f"{right} {rng.choice(VERBS)}.", "then", *ordered, *([label] if labelled else [])])
    return str(path)


def test_a_run_learns_predicts_and_is_asked(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    c = FinetuneConfig(
        task="choice",
        init_from=str(finished),
        data=dataclasses.replace(
            DATA,
            train=write(tmp_path / "train.csv", 300, 1),
            validation=write(tmp_path / "val.csv", 40, 2),
            test=write(tmp_path / "test.csv", 6, 3, labelled=False),
            seq_len=32,
        ),
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=5, batch_size=16),
    )
    figures = finetune.run(c, tmp_path / "run")
    assert figures["accuracy"] > 0.8 > figures["majority_accuracy"]
    with (tmp_path / "run/predictions-test.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    model = bertjax.load(tmp_path / "run")
    for row, example in zip(rows, read_examples(str(c.data.test), c.data, label_required=False), strict=True):
        chosen = model.choose(example.text, example.choices, truncate=True)
        assert str(chosen["choice"]) == row["prediction"]
        assert chosen["probabilities"][1] == pytest.approx(float(row["probability_1"]), abs=1e-4)
        assert chosen["way"] == example.choices[chosen["choice"]]
    line = "\t".join([example.text, *example.choices])
    words = ["bertjax", "predict", "choose", "--truncate", "--model", str(tmp_path / "run"), line]
    monkeypatch.setattr("sys.argv", words)
    capsys.readouterr()
    cli.main()
    assert json.loads(capsys.readouterr().out) == {"text": line} | chosen
    wrong = ("one", "leaves no choice"), (["one", ""], "is empty"), (["one", "bread " * 40], "at most 32")
    for ways, message in wrong:
        with pytest.raises(UserError, match=message):
            model.choose("a small boat", ways)
    with pytest.raises(UserError, match="makes no choices"):
        bertjax.load(finished).choose("a small boat", ["one", "two"])


@pytest.mark.parametrize(("task", "columns"), [("choice", ()), ("choice", ("a",)), ("classification", ("a", "b"))])
def test_columns_of_choices_are_for_choices(task: str, columns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name two or more columns for choice, else none"):
        FinetuneConfig(task=task, data=TaskDataConfig(choices=columns))  # type: ignore[arg-type]


@pytest.mark.parity
def test_scores_are_those_of_transformers(tmp_path: Path, mesh: jax.sharding.Mesh) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16, initializer_range=0.3)
    theirs = transformers.BertForMultipleChoice(config).eval()
    theirs.save_pretrained(tmp_path)
    b = pretrained.read_blueprint(tmp_path)
    assert (b.task, b.heads, b.labels) == ("choice", ("pooler", "classifier"), LABELS)
    made = features([Example("ab", ("cd", "ef", "gh"), "0", 0)], Letters(), 12)
    (choice,) = evaluation_batches(made.lengths_N, 1, [48])
    with jax.set_mesh(mesh):
        params = pretrained.read_params(tmp_path, b)
        forward = make_forward(lambda rngs: Assembly(b, rngs=rngs), logits, "float32")
        ours = jax.device_get(forward(params, to_mesh(make_batch(made, choice, 1), mesh)))
    rows = {"input_ids": made.ids[0], "token_type_ids": made.segments[0]}
    batch = {name: torch.tensor(row.reshape(1, 3, 7), dtype=torch.long) for name, row in rows.items()}
    with torch.no_grad():
        np.testing.assert_allclose(ours, theirs(**batch).logits.numpy(), atol=1e-5)

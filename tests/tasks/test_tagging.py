from __future__ import annotations

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
from bertjax import cli
from bertjax.config import FinetuneConfig, MeshConfig, ModelConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.inference import Model
from bertjax.model.assembly import Assembly, Blueprint
from bertjax.model.params import params_of
from bertjax.sharding import make_mesh
from bertjax.tasks.batches import evaluation_batches, make_batch
from bertjax.tasks.conll import Sentence, entities, entity_metrics, read_sentences
from bertjax.tasks.tagging import logits, make_task, read, tag_names, tagging_loss, tags_of, told, words_of
from bertjax.training.losses import objective
from bertjax.training.step import fresh_params, make_forward, to_mesh
from tests.conftest import OBJECTS, SUBJECTS, VERBS

LABELS = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##x", "##y"]
    path.write_text("\n".join(pieces) + "\n")
    return Tokenizer.from_vocab(path)


def sentence(words: str, tags: str | None = None, document: int = 0) -> Sentence:
    return Sentence(tuple(words.split()), None if tags is None else tuple(tags.split()), document)


def shown(tokenizer: Tokenizer, row: np.ndarray) -> str:
    return " ".join(tokenizer.piece(int(i)) for i in row)


def test_the_first_piece_speaks_for_a_word(tokenizer: Tokenizer) -> None:
    found = [sentence("axy b \u200b cx", "B-X I-X O B-X")]
    (reading,), made = read(found, tokenizer, TaskDataConfig(seq_len=16), LABELS)
    assert shown(tokenizer, made.ids[0]) == "[CLS] a ##x ##y b [UNK] c ##x [SEP]"
    assert made.token_targets["tags"][0].tolist() == [-1, 1, -1, -1, 2, 0, 1, -1, -1]
    assert reading.position_W.tolist() == [1, 4, 5, 6]


def test_long_sentences_have_every_word_told_once(tokenizer: Tokenizer) -> None:
    words = " ".join(random.Random(0).choices(["a", "bx", "cxy"], k=40))
    data = TaskDataConfig(seq_len=12, stride=6)
    readings, made = read([sentence("h", "O"), sentence(words, "B-X " * 40)], tokenizer, data, LABELS)
    assert max(made.lengths_N) == 12
    assert sum((tags >= 0).sum() for tags in made.token_targets["tags"]) == 41
    for reading in readings:
        for word, row, position in zip(reading.sentence.tokens, reading.row_W, reading.position_W, strict=True):
            assert tokenizer.piece(int(made.ids[row][position])) == word[0]
            assert made.token_targets["tags"][row][position] == LABELS.index("O" if word == "h" else "B-X")


def test_a_sentence_is_read_with_what_stands_around_it_in_its_document(tokenizer: Tokenizer) -> None:
    found = [
        sentence("a a", "O O"),
        sentence("b bx b", "B-X I-X O"),
        sentence("cxy c", "O O"),
        sentence("d", "O", document=1),
    ]

    def rows(seq_len: int, context: int = 0) -> list[str]:
        readings, made = read(found, tokenizer, TaskDataConfig(seq_len=seq_len, context=context), LABELS)
        for reading, tags in zip(readings, made.token_targets["tags"], strict=True):
            assert np.flatnonzero(tags >= 0).tolist() == reading.position_W.tolist()
        return [shown(tokenizer, row)[6:-6] for row in made.ids]

    assert rows(seq_len=16) == ["a a", "b b ##x b", "c ##x ##y c", "d"]
    assert rows(seq_len=16, context=2) == ["a a b b", "a a b b ##x b c ##x", "##x b c ##x ##y c", "d"]
    # Half of the room for either side, more where the other has less.
    assert rows(seq_len=10, context=9) == ["a a b b ##x b c ##x", "a a b b ##x b c ##x", "b b ##x b c ##x ##y c", "d"]


def test_a_part_of_the_sentences_may_be_told(tokenizer: Tokenizer) -> None:
    found = [sentence("a", "O"), sentence("b", "B-X"), sentence("c", "O")]
    readings, made = read(found, tokenizer, TaskDataConfig(seq_len=16, context=4), LABELS, [1])
    assert [shown(tokenizer, row) for row in made.ids] == ["[CLS] a b c [SEP]"]
    assert [reading.sentence for reading in readings] == [found[1]]


def test_words_are_parted_at_white_space_and_from_marks_at_their_ends() -> None:
    text = '("Anna-Lena\'s" dog,\tof @anna\u00a0#york!!) ... $5'
    words = ["(", '"', "Anna-Lena's", '"', "dog", ",", "of", "@anna", "#york", "!", "!", ")", ".", ".", ".", "$", "5"]
    assert [text[start:end] for start, end in words_of(text)] == words


def test_labels_are_those_that_occur() -> None:
    assert tag_names([sentence("a b", "B-Y O"), sentence("c", "B-X")]) == ("O", "B-X", "I-X", "B-Y", "I-Y")
    with pytest.raises(UserError, match="every tag of the training file is O"):
        tag_names([sentence("a", "O")])


def test_what_cannot_be_is_mended() -> None:
    logits_WC = np.eye(3)[[0, 2, 2, 1, 1]]
    assert tags_of(logits_WC, LABELS) == ["O", "B-X", "I-X", "B-X", "B-X"]


MODEL = ModelConfig(vocab_size=100, width=16, layers=1, heads=2, mlp_width=32, max_positions=64)


def test_loss_is_that_of_the_words_and_padding_is_invisible(tokenizer: Tokenizer) -> None:
    found = [sentence("ax b", "B-X O"), sentence("c", "I-X"), sentence("d e f", "O O B-Z")]
    readings, made = read(found, tokenizer, TaskDataConfig(seq_len=16), LABELS)
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])

    def make_model(rngs: nnx.Rngs) -> Assembly:
        return Assembly(Blueprint(MODEL, ("classifier",), "tagging", LABELS), rngs=rngs)

    with jax.set_mesh(mesh):
        forward = make_forward(make_model, lambda m, b: (tagging_loss(m, b, None), logits(m, b)), "float32")
        params, losses = fresh_params(make_model, 0), []
        for length in (16, 32):
            (choice,) = evaluation_batches(made.lengths_N, 4, [16])
            batch = to_mesh(make_batch(made, choice._replace(length=length), 4), mesh)
            sums, logits_BSC = forward(params, batch)
            losses.append(float(objective(sums)))
            outputs = np.asarray(logits_BSC)[np.argsort(choice.indices)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    told_by = [np.asarray(jax.nn.log_softmax(told(reading, list(outputs)))) for reading in readings]
    by_hand = [told_by[0][0, 1], told_by[0][1, 0], told_by[1][0, 2], told_by[2][0, 0], told_by[2][1, 0]]
    assert losses[0] == pytest.approx(-np.mean(by_hand), rel=1e-5)  # no name of the training file: no loss


def write(path: Path, rows: int, seed: int, *, tagged: bool = True) -> Path:
    """Writes sentences whose subjects and last words are named."""
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        subject, thing = rng.choice(SUBJECTS).split(), rng.choice(OBJECTS).split()
        who = ["B-WHO", *["I-WHO"] * (len(subject) - 1)]
        what = ["B-WHAT", *["I-WHAT"] * (len(thing) - 1)]
        words, tags = [*subject, rng.choice(VERBS), *thing, "."], [*who, "O", *what, "O"]
        lines += [f"{word} {tag}" if tagged else word for word, tag in zip(words, tags, strict=True)] + [""]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def task_config(finished: Path, tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        task="tagging",
        init_from=str(finished),
        data=TaskDataConfig(
            train=str(write(tmp_path / "train.conll", 100, 1)),
            validation=str(write(tmp_path / "validation.conll", 30, 2)),
            test=str(write(tmp_path / "test.conll", 10, 3, tagged=False)),
            text="0",
            label="1",
            seq_len=16,
            stride=6,
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=4, batch_size=16),
    )


def test_it_learns_to_tag_and_hands_in_what_conlleval_reads(
    task_config: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = finetune.run(task_config, tmp_path / "run")
    assert figures["f1"] > 0.9
    assert 0 < figures["lexicon_f1"] <= 1
    true = read_sentences(tmp_path / "run" / "predictions-validation.conll", 0, 1, tags_required=True)
    said = read_sentences(tmp_path / "run" / "predictions-validation.conll", 0, 2, tags_required=True)
    written = entity_metrics([s.tags or () for s in true], [s.tags or () for s in said])
    assert written["f1"] == pytest.approx(figures["f1"])
    assert [s.tokens for s in true] == [
        s.tokens for s in read_sentences(tmp_path / "validation.conll", 0, 1, tags_required=True)
    ]
    test = read_sentences(tmp_path / "run" / "predictions-test.conll", 0, 1, tags_required=True)
    assert len(test) == 10
    model = bertjax.load(tmp_path / "run")
    texts = [" ".join(s.tokens) for s in test]
    for s, text, parts in zip(test, texts, model.tag(texts), strict=True):
        named = [(part["name"], part["text"]) for part in parts]
        assert named == [(e.kind, " ".join(s.tokens[e.start : e.end])) for e in entities(s.tags or ())]
        assert all(text[part["start"] : part["end"]] == part["text"] for part in parts)
        assert all(0 < part["probability"] <= 1 for part in parts)
    assert model.tag(texts[0])[0].keys() == {"name", "text", "start", "end", "probability"}
    capsys.readouterr()
    cli.Predict("tag", (texts[0],), str(tmp_path / "run")).run()
    said = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in said["parts"]] == [part["name"] for part in model.tag(texts[0])]
    long = model.tag(" ".join(texts[:8]))  # more than the 16 positions of a row, and than the 32 of the model
    assert long[-1]["end"] > 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "text"}, r"data.text='text', data.label='1': the columns of tokens and tags are numbers"),
        ({"context": 8}, r"data.context=8, but .*train.conll has no documents; begin each with a line -DOCSTART-"),
        ({"examples_per_class": 3}, r"examples_per_class=3, but tags are no classes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    task_config: FinetuneConfig, tokenizer: Tokenizer, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_task(dataclasses.replace(task_config.data, **changes), tokenizer, 0)  # type: ignore[arg-type]


def test_one_document_is_read_with_its_context(
    task_config: FinetuneConfig, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name in ("train", "validation", "test"):
        path = tmp_path / f"{name}.conll"
        path.write_text("-DOCSTART- O\n\n" + path.read_text())
    task = make_task(dataclasses.replace(task_config.data, context=8), tokenizer, 0)
    alone = make_task(task_config.data, tokenizer, 0)
    assert sum(task.parts["train"].features.lengths_N) > sum(alone.parts["train"].features.lengths_N)


def test_a_name_that_the_validation_file_lacks_is_said(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, validation = tmp_path / "train.conll", tmp_path / "validation.conll"
    train.write_text("a B-X\nb B-Y\n")
    validation.write_text("a B-X\nb O\n")
    make_task(
        TaskDataConfig(train=str(train), validation=str(validation), text="0", label="1", seq_len=16), tokenizer, 0
    )
    assert capsys.readouterr().err == f"{validation} has no example of 'Y'\n"


def test_windows_that_do_not_overlap_are_counted(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "long.conll"
    path.write_text("a B-X\n" * 6 + "\n" + "a B-X\n" * 7)
    data = TaskDataConfig(train=str(path), validation=str(path), text="0", label="1", seq_len=8)
    make_task(data, tokenizer, 0)
    apart = "1 sentences with windows that do not overlap, as data.stride=128; use --data.stride=3"
    assert capsys.readouterr().err.splitlines() == [f"train: {apart}", f"validation: {apart}"]
    make_task(dataclasses.replace(data, stride=3), tokenizer, 0)
    assert capsys.readouterr().err == ""


def test_names_that_only_another_file_has_are_counted(
    task_config: FinetuneConfig, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "validation.conll"
    path.write_text(path.read_text() + "\nsea B-SEA\nsea I-SEA\nlake B-LAKE\n")
    task = make_task(dataclasses.replace(task_config.data, examples=7), tokenizer, 0)
    assert "validation: 2 entities of names that the training file lacks: LAKE, SEA" in capsys.readouterr().err
    assert len(task.parts["train"].examples) == len(task.parts["train"].features.ids) == 7


def test_labels_that_are_no_tags_name_each_word(tokenizer: Tokenizer) -> None:
    labels = ("NOUN", "VERB")
    b = Blueprint(MODEL, ("classifier",), "tagging", labels)
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        made = Assembly(b, rngs=nnx.Rngs(0))
        graphdef, params = nnx.graphdef(made), params_of(made)
    model = Model(MODEL, tokenizer, graphdef, params, mesh, labels, "tagging")
    parts = model.tag("ax b c")
    assert [part["text"] for part in parts] == ["ax", "b", "c"]
    assert {part["name"] for part in parts} <= set(labels)

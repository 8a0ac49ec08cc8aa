from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data.batches import training_batches
from bertjax.data.corpus import Corpus, open_corpus
from bertjax.data.inspection import inspection
from bertjax.data.mixture import open_mixture
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError
from tests.data import tfrecord_files

SEQ_LEN = 24
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(90))]
CLS, SEP, MASK = (PIECES.index(piece) for piece in ("[CLS]", "[SEP]", "[MASK]"))


def a_pair(draw: random.Random) -> tuple[list[int], list[int], int]:
    """Returns first and second segment, and the label."""
    first, second = (draw.choices(range(5, len(PIECES)), k=draw.randint(2, 9)) for _ in range(2))
    return first, second, draw.randrange(2)


PAIRS = [a_pair(random.Random(seed)) for seed in range(60)]


def google_features(first: list[int], second: list[int], label: int, seed: int = 0) -> dict[str, Any]:
    """Returns what Google's script writes of a pair: masked, and padded to one length."""
    draw = random.Random(seed)
    ids = [CLS, *first, SEP, *second, SEP]
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    places = sorted(draw.sample([i for i, token_id in enumerate(ids) if token_id not in (CLS, SEP)], 2))
    read = list(ids)
    read[places[0]], read[places[1]] = MASK, draw.randrange(5, len(PIECES))
    room = [0] * (SEQ_LEN - len(ids))
    return {
        "input_ids": read + room,
        "input_mask": [1] * len(ids) + room,
        "segment_ids": segments + room,
        "masked_lm_positions": [*places, 0, 0],
        "masked_lm_ids": [*(ids[place] for place in places), 0, 0],
        "masked_lm_weights": [1.0, 1.0, 0.0, 0.0],
        "next_sentence_labels": [label],
    }


def write(path: Path, features: list[dict[str, Any]]) -> Path:
    return tfrecord_files.write(path, map(tfrecord_files.serialized, features))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return write(tmp_path / "a.tfrecord", [google_features(*pair) for pair in PAIRS])


def make_config(directory: Path, **changes: Any) -> PrepareConfig:
    vocab = directory / "vocab.txt"
    vocab.write_text("".join(f"{piece}\n" for piece in PIECES))
    return PrepareConfig(**{"output": str(directory / "out"), "vocab": str(vocab), "validation_share": 0.2, **changes})


def pairs_of(corpus: Corpus) -> list[tuple[list[int], list[int], int]]:
    found = []
    for row in (rows[i] for rows in (corpus.train, corpus.validation) for i in range(len(rows))):
        start = 0
        for (first, second), label in zip(row["lengths"].tolist(), row["labels"].tolist(), strict=True):
            ids = row["ids"][start : start + first + second].tolist()
            assert (ids[0], ids[first - 1], ids[-1]) == (CLS, SEP, SEP)
            found.append((ids[1 : first - 1], ids[first:-1], label))
            start += first + second
    return found


@pytest.mark.parametrize("pairs_per_row", [1, 3])
def test_masks_are_taken_back_and_labels_kept(tmp_path: Path, records: Path, pairs_per_row: int) -> None:
    (manifest,) = prepare(make_config(tmp_path, pairs_per_row=pairs_per_row), [records])
    corpus = open_corpus(tmp_path / "out")
    assert sorted(pairs_of(corpus)) == sorted(PAIRS)
    assert len(corpus.validation) > 3
    assert corpus.next_sentence
    assert manifest["settings"]["seq_len"] == SEQ_LEN
    splits = manifest["splits"].values()
    assert sum(split["tokens"] for split in splits) == sum(len(first) + len(second) for first, second, _ in PAIRS)
    assert sum(split["random_pairs"] for split in splits) == sum(label for *_, label in PAIRS)


def test_repeated_pairs_are_kept(tmp_path: Path) -> None:
    twice = [google_features(*pair, seed=seed) for pair, seed in itertools.product(PAIRS, (0, 1))]
    prepare(make_config(tmp_path), [write(tmp_path / "a.tfrecord-00000-of-00001", twice)])
    assert sorted(pairs_of(open_corpus(tmp_path / "out"))) == sorted(PAIRS * 2)


def test_batches_have_new_masks(tmp_path: Path, records: Path) -> None:
    prepare(make_config(tmp_path), [records])
    c = DataConfig(path=str(tmp_path / "out"), seq_len=SEQ_LEN)
    corpus = open_mixture(c)
    size = corpus.rows("train")
    batches = training_batches(corpus, c, rows=range(size), batch_size=size, seed=0)
    first, second = batches(0), batches(1)  # an epoch each
    assert first["labels"][first["weights"] > 0].min() > MASK
    assert not np.array_equal(np.sort(first["predict"], axis=0), np.sort(second["predict"], axis=0))


def test_the_corpus_can_be_inspected(tmp_path: Path, records: Path) -> None:
    prepare(make_config(tmp_path), [records])
    lines = list(inspection(tmp_path / "out"))
    assert not any("documents" in line for line in lines)
    assert any(line.startswith("  pairs ") for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("segment_ids"), "has no feature segment_ids"),
        (lambda f: f.pop("masked_lm_weights"), "has no feature masked_lm_weights"),
        (lambda f: f["input_ids"].pop(), "has not 24 positions"),
        (lambda f: f["masked_lm_ids"].pop(), "has not as many masked ids as positions"),
        (lambda f: f["masked_lm_positions"].__setitem__(0, 24), "has masked positions outside of the text"),
        (lambda f: f["masked_lm_positions"].__setitem__(0, -1), "has masked positions outside of the text"),
        (lambda f: f["masked_lm_ids"].__setitem__(0, 95), "holds the id 95, but the vocabulary has 95 entries"),
        (lambda f: f["masked_lm_ids"].__setitem__(0, -2), "holds the id -2, but the vocabulary has 95 entries"),
        (lambda f: f["input_ids"].__setitem__(0, 7), r"has the ids \[7, 3, 3\] where \[CLS\].*--vocab"),
        (lambda f: f["segment_ids"].__setitem__(slice(None), [0] * SEQ_LEN), "has no two segments"),
        (lambda f: f["segment_ids"].__setitem__(1, 1), "has no two segments"),
        (lambda f: f["input_mask"].__setitem__(2, 0), "has no two segments"),
        (lambda f: f["input_mask"].__setitem__(slice(None), [0] * SEQ_LEN), "has masked positions outside of the text"),
        (lambda f: f.update(next_sentence_labels=[2]), r"has the next-sentence labels \[2\]"),
        (lambda f: f.update(next_sentence_labels=[]), r"has the next-sentence labels \[\]"),
    ],
)
def test_other_records_are_named(tmp_path: Path, change: Any, message: str) -> None:
    features = [google_features(*pair) for pair in PAIRS]
    change(features[41])
    path = write(tmp_path / "a.tfrecord", features)
    with pytest.raises(UserError, match=f"{path}, record 41 {message}"):
        prepare(make_config(tmp_path), [path])


def test_what_is_no_example_is_named(tmp_path: Path) -> None:
    tfrecord_files.write(tmp_path / "a.tfrecord", [b"\xff\xff\xff"])
    with pytest.raises(UserError, match=r"a\.tfrecord, record 0 is no tf\.train\.Example"):
        prepare(make_config(tmp_path), [tmp_path / "a.tfrecord"])
    tfrecord_files.write(tmp_path / "a.tfrecord", [])
    with pytest.raises(UserError, match=r"a\.tfrecord holds no records"):
        prepare(make_config(tmp_path), [tmp_path / "a.tfrecord"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab": None}, "holds ids; name the vocabulary that it was made with by --vocab"),
        ({"passes": 3}, "passes=3 cannot be had"),
        ({"next_sentence": False}, "next_sentence=False cannot be had"),
        ({"seq_len": 64}, "seq_len=64 cannot be had of .* of 24 positions"),
    ],
)
def test_what_was_decided_cannot_be_chosen(
    tmp_path: Path, records: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(make_config(tmp_path, **changes), [records])


def test_text_beside_records_is_refused(tmp_path: Path, records: Path) -> None:
    (tmp_path / "b.txt").write_text("A text.")
    with pytest.raises(UserError, match=r"b\.txt is text, and other inputs are TFRecord files"):
        prepare(make_config(tmp_path), [records, tmp_path / "b.txt"])

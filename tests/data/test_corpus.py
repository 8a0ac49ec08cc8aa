import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax.data.corpus import check_shards, open_corpus
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Lou"]
TRAIN = "corpus-train.array_record-00000-of-00001"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("prepared")
    source = directory / "a.txt"
    source.write_text(
        "\n\n".join(f"{name} has a dog. It is called {other}.\n{other} barks." for name in NAMES for other in NAMES)
    )
    prepare(PrepareConfig(str(directory / "out"), vocab_size=100, seq_len=32), [source])
    return directory / "out"


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "copy")


def test_records_are_read_by_index(prepared: Path) -> None:
    corpus = open_corpus(str(prepared))
    assert len(corpus.train) == corpus.manifest["splits"]["train"]["rows"]
    record = corpus.train[np.int64(3)]
    assert {name: (value.shape[1:], value.dtype) for name, value in record.items()} == {
        "ids": ((), np.uint16),
        "lengths": ((2,), np.int32),
        "labels": ((), np.int8),
        "pairs": ((), np.int64),
    }
    for wrong in (-1, len(corpus.train)):
        with pytest.raises(IndexError, match=f"rows 0 to {len(corpus.train) - 1}, not {wrong}"):
            corpus.train[wrong]


def test_records_are_those_that_tfds_reads(prepared: Path) -> None:
    records = open_corpus(prepared).validation
    source = tfds.builder_from_directory(prepared).as_data_source("validation")
    for index in range(len(records)):
        for name, value in source[index].items():
            assert records[index][name].dtype == value.dtype
            np.testing.assert_array_equal(records[index][name], value)


def test_records_go_to_other_processes(prepared: Path) -> None:
    records = open_corpus(prepared).validation
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(records))[1]["ids"], records[1]["ids"])


def test_the_fingerprint_follows_the_content_not_the_place(prepared: Path, copy: Path) -> None:
    assert open_corpus(copy).fingerprint == open_corpus(prepared).fingerprint
    change(copy, lambda manifest: manifest["settings"].update(seed=7))
    assert open_corpus(copy).fingerprint != open_corpus(prepared).fingerprint


def change(directory: Path, edit: Callable[[Any], object]) -> None:
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def overwrite(path: Path, content: bytes, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "holds no prepared corpus"),
        (lambda d: (d / "manifest.json").unlink(), "holds no prepared corpus .*run `bertjax prepare`"),
        (lambda d: (d / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda d: (d / "manifest.json").write_text("[]"), "has version None"),
        (lambda d: change(d, lambda m: m.update(version=99)), "has version 99, this bertjax reads 2"),
        (lambda d: (d / TRAIN).unlink(), f"the shard .*{TRAIN} is missing"),
        (lambda d: (d / TRAIN).write_bytes((d / TRAIN).read_bytes()[:-1000]), f"{TRAIN} has .* bytes instead of"),
        (lambda d: (d / "features.json").unlink(), "is not complete"),
        (lambda d: (d / "dataset_info.json").unlink(), "is not complete"),
        (lambda d: (d / "dataset_info.json").write_text("{"), "is not complete"),
        (lambda d: (d / "token_counts.npy").unlink(), "is not complete"),
        (lambda d: (d / "token_counts.npy").write_bytes(b"x"), "is not complete"),
        (lambda d: shutil.rmtree(d / "tokenizer"), "no readable tokenizer"),
        (lambda d: change(d, lambda m: m["vocabulary"].update(fingerprint="x")), "is not the one that"),
        (lambda d: change(d, lambda m: m["splits"]["train"]["shards"][0].update(rows=1)), "manifest.json 1; prepare"),
    ],
)
def test_an_incomplete_corpus_is_refused(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(UserError, match=message):
        open_corpus(copy)


def test_a_damaged_record_is_named(copy: Path) -> None:
    length = (copy / TRAIN).stat().st_size
    overwrite(copy / TRAIN, b"\x55" * 4000, 1000)
    assert (copy / TRAIN).stat().st_size == length
    records = open_corpus(copy).train
    with pytest.raises(
        UserError, match=rf"copy/{TRAIN}, record \d+ is damaged .*is not what was written.*prepare the corpus again"
    ):
        [records[index] for index in range(len(records))]


def test_damage_that_no_record_shows_is_found_by_the_checksum(copy: Path) -> None:
    check_shards(copy)
    with (copy / TRAIN).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
    overwrite(copy / TRAIN, bytes([last[0] ^ 1]), (copy / TRAIN).stat().st_size - 1)
    with pytest.raises(UserError, match=f"{TRAIN} is not what was written; prepare the corpus again"):
        check_shards(copy)


def test_an_id_out_of_the_vocabulary_is_named(copy: Path) -> None:
    corpus = open_corpus(copy)
    largest = max(int(corpus.train[index]["ids"].max()) for index in range(len(corpus.train)))
    change(copy, lambda manifest: manifest["vocabulary"].update(entries=largest))
    records = open_corpus(copy).train
    with pytest.raises(
        UserError, match=rf"record \d+ holds the id {largest}, but the vocabulary has {largest} entries"
    ):
        [records[index] for index in range(len(records))]

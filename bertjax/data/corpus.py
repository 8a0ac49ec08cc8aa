"""A prepared corpus, read by index; what is wrong with it is said with the directory, the split and the record."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from bertjax.data.blocks import Split
from bertjax.data.checksums import checksum
from bertjax.data.tokenizer import Tokenizer, id_dtype
from bertjax.errors import UserError

MANIFEST_VERSION = 2

Manifest = dict[str, Any]
Record = dict[str, np.ndarray]


class Records:
    """The rows of a split: `len()` of them, each a dict of `ids` [n], `lengths` [P, 2], `labels` [P], `pairs` [P]."""

    def __init__(self, directory: Path, split: Split, manifest: Manifest):
        self._where = f"{directory}, split {split}"
        self._directory = directory
        self._vocab_size = manifest["vocabulary"]["entries"]
        self._id_dtype = id_dtype(self._vocab_size)
        self._shards = shards = manifest["splits"][split]["shards"]
        self._source = tfds.builder_from_directory(directory).as_data_source(split)
        # Shards are written apart and number their pairs from 0; in the split the numbers go on.
        self._first_rows = np.cumsum([0, *(shard["rows"] for shard in shards)])
        self._first_pairs = np.cumsum([0, *(shard["pairs"] for shard in shards)])
        if len(self._source) != self._first_rows[-1]:
            raise UserError(
                f"{self._where}: dataset_info.json says {len(self._source)} rows, manifest.json {self._first_rows[-1]};"
                " prepare the corpus again"
            )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, row: SupportsIndex) -> Record:
        """Returns a row. Raises: UserError if it is damaged, IndexError if there is none."""
        index = operator.index(row)  # NumPy's integers too
        if not 0 <= index < len(self):
            raise IndexError(f"{self._where} has rows 0 to {len(self) - 1}, not {index}")
        try:
            record = _record(self._source.data_source[index], self._id_dtype)
        except (RuntimeError, ValueError, OverflowError, DecodeError) as error:  # none of them names a file
            raise UserError(self._damage(index, error)) from error
        if record["ids"].max(initial=0) >= self._vocab_size or record["ids"].min(initial=0) < 0:
            raise UserError(
                f"{self._where}, record {index} holds the id {record['ids'].max()}, but the vocabulary has"
                f" {self._vocab_size} entries; prepare the corpus again"
            )
        record["pairs"] += self._first_pairs[self._shard_of(index)]
        return record

    def _shard_of(self, index: int) -> int:
        return int(np.searchsorted(self._first_rows, index, side="right")) - 1

    def _damage(self, index: int, error: Exception) -> str:
        number = self._shard_of(index)
        shard = self._shards[number]
        path = self._directory / shard["name"]
        state = "is as it was written" if _is_as_written(path, shard) else "is not what was written"
        return (
            f"{path}, record {index - self._first_rows[number]} is damaged ({error}); by its checksum the file {state};"
            " prepare the corpus again"
        )


def _record(serialized: bytes, ids: type[np.generic]) -> Record:
    """Returns what TFDS would, in half the time: it looks up features and shapes for each record anew."""
    feature = tf_example_pb2.Example.FromString(serialized).features.feature

    def values(name: str, dtype: type[np.generic]) -> np.ndarray:
        return np.array(feature[name].int64_list.value, dtype)

    return {
        "ids": values("ids", ids),
        "lengths": values("lengths", np.int32).reshape(-1, 2),
        "labels": values("labels", np.int8),
        "pairs": values("pairs", np.int64),
    }


@dataclasses.dataclass(frozen=True)
class Corpus:
    """What `open_corpus` returns."""

    directory: Path
    train: Records
    validation: Records
    tokenizer: Tokenizer
    manifest: Manifest
    token_counts: np.ndarray
    """int64 [V], how often each id occurs in the training rows; 0 for special tokens."""

    def records(self, split: Split) -> Records:
        """Returns the rows of a split."""
        return self.train if split == "train" else self.validation

    @property
    def next_sentence(self) -> bool:
        """Whether the rows are pairs with a next-sentence label."""
        return bool(self.manifest["settings"]["next_sentence"])

    @property
    def pairs_per_row(self) -> int:
        """P: the most pairs that a row holds."""
        return int(self.manifest["settings"]["pairs_per_row"])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the manifest: equal ones mean the same rows."""
        text = json.dumps(self.manifest, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def open_corpus(directory: str | Path) -> Corpus:
    """Returns the corpus that `bertjax prepare` wrote.

    Raises: UserError if the directory does not hold one, or part of it is missing or cut off.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            _check_size(directory / shard["name"], shard["bytes"])
    tokenizer = Tokenizer.load(directory / "tokenizer")
    if tokenizer.fingerprint != manifest["vocabulary"]["fingerprint"]:
        raise UserError(f"{directory}/tokenizer is not the one that the corpus was prepared with; prepare it again")
    try:
        records = {split: Records(directory, split, manifest) for split in manifest["splits"]}
        token_counts = np.load(directory / "token_counts.npy", allow_pickle=False)
    except (OSError, ValueError, ParseError) as error:
        raise UserError(f"{directory} is not complete ({error}); prepare the corpus again") from error
    return Corpus(directory, records["train"], records["validation"], tokenizer, manifest, token_counts)


def check_shards(directory: Path) -> None:
    """Reads all shards; raises UserError, with their names, if any is not what was written."""
    damaged = damaged_shards(directory)
    if damaged:
        raise UserError(f"{', '.join(map(str, damaged))} is not what was written; prepare the corpus again")


def damaged_shards(directory: Path) -> list[Path]:
    """Reads all shards; returns those that are missing, or not what was written."""
    shards = [shard for split in read_manifest(directory)["splits"].values() for shard in split["shards"]]
    return [directory / shard["name"] for shard in shards if not _is_as_written(directory / shard["name"], shard)]


def _is_as_written(path: Path, shard: dict[str, Any]) -> bool:
    return path.is_file() and checksum(path) == shard["blake2b"]


def read_manifest(directory: Path) -> Manifest:
    """Returns the manifest. Raises: UserError if there is none that this version reads."""
    path = directory / "manifest.json"
    try:
        manifest: Manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{directory} holds no prepared corpus (no manifest.json); run `bertjax prepare`") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); prepare the corpus again") from error
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise UserError(
            f"{path} has version {version}, this bertjax reads {MANIFEST_VERSION}; prepare the corpus again"
        )
    return manifest


def _check_size(path: Path, size: int) -> None:
    if not path.is_file():
        raise UserError(f"the shard {path} is missing; prepare the corpus again")
    if path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size} bytes instead of {size}; prepare the corpus again")

"""From a block of documents to a shard of records: sentences, ids, pairs, ArrayRecord."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from bertjax.data.blocks import SPLITS, Block, D, Split
from bertjax.data.checksums import checksum
from bertjax.data.documents import EncodedDocument
from bertjax.data.packing import pack
from bertjax.data.pairs import IS_RANDOM, Pair, pairs_from_documents
from bertjax.data.sentences import split_sentences
from bertjax.data.tokenizer import Tokenizer, id_dtype
from bertjax.errors import UserError

ROWS_AT_A_TIME = 1024  # counted at a time
PAIRS_AT_A_TIME = 1 << 16  # packed together; bounds the memory, and the last row of so many hardly counts
NOTE = ".finished.npz"
LOST = "\ufffd".encode()  # in place of what was no text; the tokenizer leaves it out, as Google's does
T = TypeVar("T")
Row = list[tuple[int, Pair]]
"""Pairs with their index in the shard."""


@dataclasses.dataclass(frozen=True)
class ShardOptions:
    """What a worker needs besides the block."""

    directory: str
    """Where the shards go; holds tokenizer/ already."""
    vocabulary: str
    """The tokenizer's fingerprint."""
    seq_len: int
    pairs_per_row: int
    passes: int
    next_sentence: bool
    short_share: float
    seed: int


class Shard(NamedTuple):
    """What was written."""

    split: Split
    name: str
    rows: int
    size: int
    """Bytes of the file."""
    counts: Counter[str]
    token_counts: np.ndarray
    """int64 [V], how often each id occurs in the rows."""
    checksum: str


WriteShards = Callable[[Sequence[ShardOptions], Block[D]], list[Shard]]
"""Writes the shards of a block, one for each of the options."""


def shard_name(split: Split, number: int, shards: int | None = None) -> str:
    """Returns the name that TFDS expects of a shard, without the last part while the number of shards is not known."""
    name = f"corpus-{split}.array_record-{number:05d}"
    return name if shards is None else f"{name}-of-{shards:05d}"


def record_features(vocab_size: int) -> tfds.features.FeaturesDict:
    """Returns the features of a record: a row of P pairs, one after the other in `ids`."""
    return tfds.features.FeaturesDict(
        {
            "ids": tfds.features.Tensor(shape=(None,), dtype=id_dtype(vocab_size), doc="[CLS] A [SEP] B [SEP]"),
            "lengths": tfds.features.Tensor(shape=(None, 2), dtype=np.int32, doc="of [CLS] A [SEP] and of B [SEP]"),
            "labels": tfds.features.Tensor(shape=(None,), dtype=np.int8, doc="0 B follows A, 1 B is random"),
            "pairs": tfds.features.Tensor(shape=(None,), dtype=np.int64, doc="index of the pair in its shard"),
        }
    )


def write_shards_once(write: WriteShards[D], options: Sequence[ShardOptions], block: Block[D]) -> list[Shard]:
    """Returns the block's shards as a run that was killed has left them, or else writes them.

    Raises: UserError as `write` does.
    """
    kept = kept_shards(options, block)
    if len(kept) == len(options):
        return kept
    shards = write(options, block)
    for each, shard in zip(options, shards, strict=True):
        _write_note(_path_of(each, block), shard)
    return shards


def kept_shards(options: Sequence[ShardOptions], block: Block[D]) -> list[Shard]:
    """Returns what there is of the block's shards, whole and as it was written."""
    return [shard for each in options if (shard := _read_note(_path_of(each, block)))]


def _path_of(options: ShardOptions, block: Block[D]) -> Path:
    return Path(options.directory) / shard_name(block.split, block.number)


def note_of(path: Path) -> Path:
    """Returns where stands what a finished shard holds, until the corpus is complete."""
    return path.with_name(f"{path.name}{NOTE}")


def _write_note(path: Path, shard: Shard) -> None:
    described = json.dumps(shard._replace(token_counts=None)._asdict())  # type: ignore[arg-type]
    unfinished = note_of(path).with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, described=np.array(described), token_counts=shard.token_counts)
    os.replace(unfinished, note_of(path))


def _read_note(path: Path) -> Shard | None:
    try:
        with np.load(note_of(path), allow_pickle=False) as note:
            shard = Shard(**json.loads(note["described"].item()) | {"token_counts": note["token_counts"]})
        whole = checksum(path) == shard.checksum
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        # There is none, or the machine died before the disk had all of it.
        return None
    return shard._replace(counts=Counter(shard.counts)) if whole else None


def write_shards(options: Sequence[ShardOptions], block: Block[EncodedDocument]) -> list[Shard]:
    """Writes the block's pairs in rows of each length, a row a record; returns what was written.

    A function of its arguments only; the options differ in directory and length, and share a vocabulary.

    Raises: UserError if too few of the documents hold what the tokenizer keeps, or the disk is full.
    """
    tokenizer = load_tokenizer(options[0])
    documents = _encode(block.documents, tokenizer)
    if len(documents) < 1 + options[0].next_sentence:
        raise UserError(
            f"of {len(block.documents)} {block.split} documents only {len(documents)} hold more than control"
            " characters; check the encoding of the files"
        )
    counts = _text_counts(documents, tokenizer.unk_id)
    counts["bytes"] = block.size
    counts["lost_characters"] = sum(text.count(LOST) for document in block.documents for text in document.paragraphs)
    return [write_pairs(each, block, _pairs(documents, block, each, tokenizer), counts, tokenizer) for each in options]


def write_pairs(
    options: ShardOptions, block: Block[D], pairs: Iterable[Pair], text_counts: Counter[str], tokenizer: Tokenizer
) -> Shard:
    """Writes the pairs of a block, a row of them a record, and returns what was written, `text_counts` among it.

    Raises: UserError if the disk is full.
    """
    name = shard_name(block.split, block.number)
    path = os.path.join(options.directory, name)
    token_counts, counts = np.zeros(tokenizer.vocab_size, np.int64), text_counts.copy()
    writer = ArrayRecordWriter(path, "group_size:1")
    for rows in _batches(_rows(pairs, options), ROWS_AT_A_TIME):
        with _writing(path):
            for row in rows:
                writer.write(_serialize(row))
        written = [pair for row in rows for _, pair in row]
        token_counts += np.bincount(np.concatenate([pair.ids for pair in written]), minlength=len(token_counts))
        counts.update(_pair_counts(written), rows=len(rows))
    with _writing(path):
        writer.close()
    return Shard(block.split, name, counts["rows"], os.path.getsize(path), counts, token_counts, checksum(Path(path)))


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # all that ArrayRecord raises
        raise UserError(f"{path} could not be written ({error}); make room, or choose another --output") from error


def load_tokenizer(options: ShardOptions) -> Tokenizer:
    """Returns the tokenizer of the corpus, in each process read once."""
    return _tokenizer(options.directory, options.vocabulary)


@functools.lru_cache(maxsize=1)
def _tokenizer(directory: str, vocabulary: str) -> Tokenizer:  # noqa: ARG001 - the fingerprint is there for the cache
    return Tokenizer.load(Path(directory) / "tokenizer")


def _encode(documents: Iterable[EncodedDocument], tokenizer: Tokenizer) -> list[list[np.ndarray]]:
    """Returns the documents that have any tokens, as lists of their sentences' ids."""
    encoded = (
        [ids for paragraph in d.paragraphs for s in split_sentences(paragraph) if len(ids := tokenizer.encode(s))]
        for d in documents
    )
    return [document for document in encoded if document]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _text_counts(documents: list[list[np.ndarray]], unk_id: int) -> Counter[str]:
    return Counter(
        documents=len(documents),
        sentences=sum(map(len, documents)),
        tokens=sum(len(sentence) for document in documents for sentence in document),
        unknown_tokens=sum(int(np.sum(np.concatenate(document) == unk_id)) for document in documents),
    )


def _pair_counts(pairs: list[Pair]) -> Counter[str]:
    return Counter(
        pairs=len(pairs),
        random_pairs=sum(pair.label == IS_RANDOM for pair in pairs),
        one_sentence_pairs=sum(pair.one_sentence for pair in pairs),
        row_tokens=sum(len(pair.ids) for pair in pairs),
    )


def _pairs(
    documents: list[list[np.ndarray]], block: Block[EncodedDocument], options: ShardOptions, tokenizer: Tokenizer
) -> Iterable[Pair]:
    passes = options.passes if block.split == "train" else 1
    for number in range(passes):
        yield from pairs_from_documents(
            documents,
            np.random.default_rng((options.seed, SPLITS.index(block.split), block.number, number)),
            seq_len=options.seq_len,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            next_sentence=options.next_sentence,
            short_share=options.short_share,
        )


def _rows(pairs: Iterable[Pair], options: ShardOptions) -> Iterator[Row]:
    """Yields the pairs in rows, numbered in the order in which they come, packed or not."""
    numbered = enumerate(pairs)
    if options.pairs_per_row == 1:
        yield from ([pair] for pair in numbered)
        return
    for window in _batches(numbered, PAIRS_AT_A_TIME):
        lengths = [len(pair.ids) for _, pair in window]
        for row in pack(lengths, row_lengths=[options.seq_len], per_row=options.pairs_per_row):
            yield [window[index] for index in row]


def _serialize(row: Row) -> bytes:
    """Returns what `record_features(...).serialize_example` would, in 14 µs instead of 60, the same bytes always."""
    example = tf_example_pb2.Example()
    feature = example.features.feature
    for index, pair in row:
        feature["ids"].int64_list.value.extend(pair.ids.tolist())
        feature["lengths"].int64_list.value.extend((pair.first_length, pair.second_length))
        feature["labels"].int64_list.value.append(pair.label)
        feature["pairs"].int64_list.value.append(index)
    return example.SerializeToString(deterministic=True)

"""Pairs from what google-research/bert's create_pretraining_data.py wrote, with its masks taken back.

Masks are then drawn anew in every epoch, as those of our own pairs. Shape letters: S position, M predicted position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from bertjax.data.blocks import Block, place_of
from bertjax.data.pairs import IS_NEXT, IS_RANDOM, Pair
from bertjax.data.shards import Shard, ShardOptions, load_tokenizer, write_pairs
from bertjax.data.tfrecords import read_records
from bertjax.data.tokenizer import Tokenizer, id_dtype
from bertjax.errors import UserError


class GoogleRecord(NamedTuple):
    """A record as it is in the file."""

    content: bytes
    where: str
    """File and number, for messages."""

    @property
    def place(self) -> float:
        """Where it is among all; it does not tell its document."""
        return place_of(self.content)

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return len(self.content)


def google_records(paths: Sequence[Path]) -> Iterator[GoogleRecord]:
    """Yields the records of the files. Raises: UserError if one is damaged."""
    for path in paths:
        for number, content in enumerate(read_records(path)):
            yield GoogleRecord(content, f"{path}, record {number}")


def record_length(paths: Sequence[Path]) -> int:
    """Returns the positions of the first record, padding included. Raises: UserError if there is no record."""
    first = next(google_records(paths), None)
    if first is None:
        raise UserError(f"{paths[0]} holds no records; name files that create_pretraining_data.py wrote")
    return len(_integers(_features(first), "input_ids", first.where))


def write_record_shards(options: Sequence[ShardOptions], block: Block[GoogleRecord]) -> list[Shard]:
    """Writes the pairs of the block's records, and returns what was written; a function of its arguments only.

    Raises: UserError, with file and number, if a record is not of Google's form or does not fit the vocabulary.
    """
    (only,) = options  # the pairs have the length that they were made for
    tokenizer = load_tokenizer(only)
    pairs = [pair_from_record(record, tokenizer, only.seq_len) for record in block.documents]
    counts = Counter(
        tokens=sum(len(pair.ids) - 3 for pair in pairs),
        unknown_tokens=sum(int(np.sum(pair.ids == tokenizer.unk_id)) for pair in pairs),
        bytes=block.size,
    )
    return [write_pairs(only, block, pairs, counts, tokenizer)]


def pair_from_record(record: GoogleRecord, tokenizer: Tokenizer, seq_len: int) -> Pair:
    """Returns the pair with its original ids.

    Raises: UserError, with file and number, if it is not of Google's form or does not fit the vocabulary.
    Source: google-research/bert, create_pretraining_data.py (write_instance_to_example_files).
    """
    features, where = _features(record), record.where
    ids_S, filled_S, segments_S = (
        _integers(features, name, where) for name in ("input_ids", "input_mask", "segment_ids")
    )
    _require(len(ids_S) == len(filled_S) == len(segments_S) == seq_len, where, f"has not {seq_len} positions")
    length = int(filled_S.sum())
    ids, segments = _unmasked(ids_S, length, features, where)[:length], segments_S[:length]
    _check_ids(ids, tokenizer, where)
    first = int((segments == 0).sum())
    in_order = 0 < first < length and segments[first:].all() and filled_S[:length].all()
    _require(bool(in_order), where, "has no two segments, one after the other")
    specials = ids[[0, first - 1, -1]].tolist()
    if specials != [tokenizer.cls_id, tokenizer.sep_id, tokenizer.sep_id]:
        raise UserError(
            f"{where} has the ids {specials} where [CLS], [SEP] and [SEP] belong, which are {tokenizer.cls_id} and"
            f" {tokenizer.sep_id} in the vocabulary; give the one that it was made with by --vocab"
        )
    labels = _integers(features, "next_sentence_labels", where).tolist()
    _require(labels in ([IS_NEXT], [IS_RANDOM]), where, f"has the next-sentence labels {labels}")
    return Pair(ids.astype(id_dtype(tokenizer.vocab_size)), first, length - first, labels[0])


def _unmasked(ids_S: np.ndarray, length: int, features: tf_example_pb2.Features, where: str) -> np.ndarray:
    """Returns ids_S with the original ids where others were written over them."""
    places_M, originals_M = (_integers(features, name, where) for name in ("masked_lm_positions", "masked_lm_ids"))
    weights_M = np.array(_feature(features, "masked_lm_weights", where).float_list.value)
    _require(len(places_M) == len(originals_M) == len(weights_M), where, "has not as many masked ids as positions")
    places_M, originals_M = places_M[weights_M > 0], originals_M[weights_M > 0]
    _require(bool(np.all((places_M >= 0) & (places_M < length))), where, "has masked positions outside of the text")
    ids_S[places_M] = originals_M
    return ids_S


def _check_ids(ids: np.ndarray, tokenizer: Tokenizer, where: str) -> None:
    wrong = ids[(ids < 0) | (ids >= tokenizer.vocab_size)]
    if len(wrong):
        raise UserError(
            f"{where} holds the id {wrong[0]}, but the vocabulary has {tokenizer.vocab_size} entries; give the one that"
            " it was made with by --vocab"
        )


def _features(record: GoogleRecord) -> tf_example_pb2.Features:
    try:
        return tf_example_pb2.Example.FromString(record.content).features
    except DecodeError as error:
        raise UserError(f"{record.where} is no tf.train.Example ({error}); name files of Google's script") from error


def _feature(features: tf_example_pb2.Features, name: str, where: str) -> tf_example_pb2.Feature:
    _require(name in features.feature, where, f"has no feature {name}")
    return features.feature[name]


def _integers(features: tf_example_pb2.Features, name: str, where: str) -> np.ndarray:
    return np.array(_feature(features, name, where).int64_list.value, np.int64)


def _require(holds: bool, where: str, otherwise: str) -> None:
    if not holds:
        raise UserError(f"{where} {otherwise}; name files that google-research/bert's create_pretraining_data.py wrote")

"""Batches that benchmarks read where no corpus is given, and what others have to read in place of a packed one.

Shape letters: B batch (rows), S position, M predicted positions, P pairs in a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertjax.config import DataConfig
from bertjax.data import masking
from bertjax.data.batches import Batch
from bertjax.errors import UserError


def made_up_batch(
    c: DataConfig, rows: int, *, vocab_size: int, lengths: Sequence[int] = (), pairs_per_row: int = 1
) -> Batch:
    """Returns a batch of random ids, as data/batches.py makes them, each row of the next `pairs_per_row` of `lengths`.

    The lengths come round again and again; without any, equal pairs fill the rows.

    Raises: UserError if the lengths of a row are more than `c.seq_len`.
    """
    rng = np.random.default_rng(0)
    lengths_BP = np.resize(lengths or [c.seq_len // pairs_per_row], (rows, pairs_per_row))
    if lengths_BP.sum(axis=1).max() > c.seq_len or lengths_BP.min() < 2:
        raise UserError(f"lengths={tuple(lengths)} x {pairs_per_row} a row: use 2 or more, at most {c.seq_len} a row")
    starts_BP = np.cumsum(lengths_BP, axis=1) - lengths_BP
    spans_BS, positions_BS, segments_BS = (np.zeros((rows, c.seq_len), np.int32) for _ in range(3))
    for b, k in np.ndindex(lengths_BP.shape):
        start, length = int(starts_BP[b, k]), int(lengths_BP[b, k])
        spans_BS[b, start : start + length] = k + 1
        positions_BS[b, start : start + length] = np.arange(length)
        segments_BS[b, start + length // 2 : start + length] = 1
    ids_BS = np.where(spans_BS > 0, rng.integers(1, vocab_size, spans_BS.shape), 0).astype(np.int32)
    masked = masking.mask_rows(
        ids_BS,
        spans_BS,
        positions_BS > 0,
        rng.random((4, *spans_BS.shape)),
        c,
        pairs_per_row=pairs_per_row,
        mask_id=1,
        continues_V=np.zeros(vocab_size, bool),
    )
    return {
        "ids": masked.ids_BS,
        "segments": segments_BS,
        "positions": positions_BS,
        "spans": spans_BS,
        "predict": masked.predict_BM,
        "labels": masked.labels_BM,
        "weights": masked.weights_BM,
        "cls": starts_BP.astype(np.int32),
        "next": rng.integers(0, 2, starts_BP.shape).astype(np.int32),
        "next_weights": np.ones(starts_BP.shape, np.float32),
    }


def unpacked(batch: Batch) -> Batch:
    """Returns the same pairs one in a row, padded to the longest."""
    labels_BS, chosen_BS = _labels_and_weights(batch)
    spans = [(b, batch["spans"][b] == k + 1, k) for b, k in np.ndindex(batch["cls"].shape)]
    spans = [(b, span, k) for b, span, k in spans if span.any()]
    longest = max(int(span.sum()) for _, span, _ in spans)

    def rows_of(x_BS: np.ndarray) -> np.ndarray:
        return np.stack([np.pad(x_BS[b, span], (0, longest - span.sum())) for b, span, _ in spans])

    def pairs_of(x_BP: np.ndarray) -> np.ndarray:
        return np.stack([x_BP[b, k : k + 1] for b, _, k in spans])

    made = {name: rows_of(batch[name]) for name in ("ids", "segments", "positions")}
    labels, chosen, spans_there = rows_of(labels_BS), rows_of(chosen_BS), rows_of((batch["spans"] > 0).astype(np.int32))
    predict = np.argsort(-chosen, axis=1, kind="stable")[:, : int(chosen.sum(axis=1).max())].astype(np.int32)
    return made | {
        "spans": spans_there,
        "predict": predict,
        "labels": np.take_along_axis(labels, predict, axis=1),
        "weights": np.take_along_axis(chosen, predict, axis=1),
        "cls": np.zeros((len(spans), 1), np.int32),
        "next": pairs_of(batch["next"]),
        "next_weights": pairs_of(batch["next_weights"]),
    }


def with_every_position(batch: Batch) -> Batch:
    """Returns the batch with a place in `predict` for every position: the head's work where nothing is gathered."""
    labels_BS, weights_BS = _labels_and_weights(batch)
    predict_BS = np.broadcast_to(np.arange(labels_BS.shape[1], dtype=np.int32), labels_BS.shape).copy()
    return batch | {"predict": predict_BS, "labels": labels_BS, "weights": weights_BS}


def _labels_and_weights(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    labels_BS, weights_BS = np.zeros(batch["ids"].shape, np.int32), np.zeros(batch["ids"].shape, np.float32)
    rows, places = np.nonzero(batch["weights"])
    labels_BS[rows, batch["predict"][rows, places]] = batch["labels"][rows, places]
    weights_BS[rows, batch["predict"][rows, places]] = 1
    return labels_BS, weights_BS

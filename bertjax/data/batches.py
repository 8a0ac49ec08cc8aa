"""Batches as pure functions of the step: the rows, their order and their masks depend on the seed and the step only.

Nothing is iterated, so nothing has to be saved or replayed: a resumed run asks for the batch of its next step.
Shape letters: B batch (rows), S position, M predicted positions, P pairs in a row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from bertjax.config import DataConfig
from bertjax.data import masking
from bertjax.data.mixture import Mixture

Batch = dict[str, np.ndarray]
Row = Mapping[str, np.ndarray]


def training_batches(
    corpus: Mixture, c: DataConfig, *, rows: Sequence[int], batch_size: int, seed: int
) -> Callable[[int], Batch]:
    """Returns batch(step), steps counted from 0: the rows numbered `rows` of the global batch of that step.

    The rows of an epoch are a permutation of the training split; each epoch has another, and other masks.
    """
    place = corpus.training_order(seed)

    def batch(step: int) -> Batch:
        places = [place(step * batch_size + row) for row in rows]
        chosen = [corpus.read("train", p) for p in places]
        return _assemble(chosen, [p.epoch for p in places], corpus, c, seed=seed, stream=masking.TRAINING)

    return batch


def seed_of_phase(seed: int, number: int) -> int:
    """Returns the seed of a run's phase, counted from 0: the first has the run's, so that one phase is none."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def evaluation_batches(corpus: Mixture, c: DataConfig, *, batch_size: int, limit: int) -> list[Batch]:
    """Returns batches over at most `limit` held-out rows, the same ones with the same masks in every run.

    They are masked at `eval_mask_rate`. Rows that fill up the last batch have no weight.
    """
    c = dataclasses.replace(c, mask_rate=c.eval_mask_rate)
    places = corpus.held_out(limit)
    batches = []
    for start in range(0, len(places), batch_size):
        chosen: list[Row] = [corpus.read("validation", p) for p in places[start : start + batch_size]]
        chosen += [_EMPTY_ROW] * (batch_size - len(chosen))
        batches.append(_assemble(chosen, [0] * len(chosen), corpus, c, seed=0, stream=masking.EVALUATION))
    return batches


def prefetched(batch: Callable[[int], Any], steps: range, *, threads: int = 2, ahead: int = 4) -> Iterator[Any]:
    """Yields batch(step) for each step, in order; `threads` make up to `ahead` of them ahead of time."""
    dataset = grain.MapDataset.range(steps.start, steps.stop).map(batch)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(dataset.to_iter_dataset(options))


def unigram_baselines(batches: Sequence[Batch], token_counts_V: np.ndarray) -> dict[str, float]:
    """Returns what is reached without reading the text, in the places these batches ask for.

    The masked-LM loss (nats) of the training split's token frequencies, the accuracy of always guessing the most
    frequent token, and of always guessing the more frequent next-sentence label.
    """
    labels = np.concatenate([b["labels"][b["weights"] > 0] for b in batches])
    probability_V = (token_counts_V + 1) / (token_counts_V.sum() + len(token_counts_V))  # unseen tokens count once
    baselines = {
        "unigram_mlm_loss": float(-np.log(probability_V[labels]).mean()),
        "unigram_mlm_accuracy": float((labels == token_counts_V.argmax()).mean()),
    }
    following = np.concatenate([b["next"][b["next_weights"] > 0] for b in batches])
    if len(following):
        share = float(following.mean())
        baselines["majority_nsp_accuracy"] = max(share, 1 - share)
    return baselines


def full_batch(c: DataConfig, rows: int, pairs_per_row: int = 1) -> Batch:
    """Returns a batch as it would be of a corpus whose rows are full, of equal pairs; its tokens are all 0."""
    zeros_BS = np.zeros((rows, c.seq_len), np.int32)
    zeros_BP = np.zeros((rows, pairs_per_row), np.int32)
    spans_BS = zeros_BS + 1 + np.arange(c.seq_len) * pairs_per_row // c.seq_len
    predicted_B1 = masking.prediction_counts(spans_BS, c, pairs_per_row).sum(axis=1, keepdims=True)
    places_M = np.arange(masking.predictions_per_row(c, pairs_per_row))
    zeros_BM = np.zeros((rows, len(places_M)), np.int32)
    return {
        "ids": zeros_BS,
        "segments": zeros_BS,
        "positions": zeros_BS,
        "spans": spans_BS.astype(np.int32),
        "predict": zeros_BM,
        "labels": zeros_BM,
        "weights": (places_M < predicted_B1).astype(np.float32),
        "cls": zeros_BP,
        "next": zeros_BP,
        "next_weights": np.ones_like(zeros_BP, np.float32),
    }


_EMPTY_ROW: Row = {
    "ids": np.zeros(0, np.int32),
    "lengths": np.zeros((0, 2), np.int32),
    "labels": np.zeros(0, np.int8),
    "pairs": np.zeros(0, np.int64),
}


def _assemble(
    rows: Sequence[Row], epochs: Sequence[int], corpus: Mixture, c: DataConfig, *, seed: int, stream: int
) -> Batch:
    """Returns the batch of these rows, masked.

    ids, segments, positions (restarting in each pair), spans (0 is padding, k the k-th pair): int32 [B, S];
    predict, labels: int32 [B, M] and weights: float32 [B, M]; cls (positions of [CLS]), next (0 is next, 1 is random):
    int32 [B, P] and next_weights: float32 [B, P].
    """
    pairs_per_row = corpus.pairs_per_row
    shape = (len(rows), c.seq_len)
    ids_BS, segments_BS, positions_BS, spans_BS = (np.zeros(shape, np.int32) for _ in range(4))
    cls_BP, next_BP = (np.zeros((len(rows), pairs_per_row), np.int32) for _ in range(2))
    next_weights_BP = np.zeros((len(rows), pairs_per_row), np.float32)
    for b, row in enumerate(rows):
        ids_BS[b, : len(row["ids"])] = row["ids"]
        start = 0
        for k, (first, second) in enumerate(row["lengths"]):
            end = start + first + second
            segments_BS[b, start + first : end] = 1
            positions_BS[b, start:end] = np.arange(first + second)
            spans_BS[b, start:end] = k + 1
            cls_BP[b, k], next_BP[b, k], next_weights_BP[b, k] = start, row["labels"][k], float(second > 0)
            start = end

    tokenizer = corpus.tokenizer
    maskable_BS = (spans_BS > 0) & (ids_BS != tokenizer.cls_id) & (ids_BS != tokenizer.sep_id)
    draws_4BS = masking.draws_for(spans_BS, [row["pairs"] for row in rows], epochs, seed=seed, stream=stream)
    masked = masking.mask_rows(
        ids_BS,
        spans_BS,
        maskable_BS,
        draws_4BS,
        c,
        pairs_per_row=pairs_per_row,
        mask_id=tokenizer.mask_id,
        continues_V=tokenizer.continues_V,
    )
    return {
        "ids": masked.ids_BS,
        "segments": segments_BS,
        "positions": positions_BS,
        "spans": spans_BS,
        "predict": masked.predict_BM,
        "labels": masked.labels_BM,
        "weights": masked.weights_BM,
        "cls": cls_BP,
        "next": next_BP,
        "next_weights": next_weights_BP,
    }

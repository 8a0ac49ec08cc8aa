"""Batches of examples: which ones, in which order, padded to which length. The same whatever the mesh.

Short examples do not pay for the longest one: they are padded to one of a few lengths, each of which compiles once. Of
texts that are not known yet these double; a file's are chosen so that little is padded.
Shape letters: B batch (rows), S position, N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

SHORTEST = 16  # positions; below, a batch costs little more than its dispatch
MOST_LENGTHS = 4  # that a file's batches are padded to
NEAR = 1.1  # times the fewest positions is good enough: each length takes seconds to compile
_HIDING = 1  # keeps these draws apart from those of the order


@dataclasses.dataclass(frozen=True)
class Features:
    """Examples as a model reads them."""

    ids: Sequence[np.ndarray]
    """Token ids of each example, special ones included, int32."""
    segments: Sequence[np.ndarray]
    """0 on the first text, 1 on the second, of the same lengths, int32."""
    targets: Mapping[str, np.ndarray]
    """What is to be predicted, by name, [N] or [N, C]."""
    pad_id: int
    truncated: int = 0
    """How many examples were cut to fit."""
    token_targets: Mapping[str, Sequence[np.ndarray]] = dataclasses.field(default_factory=dict)
    """What is to be predicted of each token, by name, of the same lengths as ids, int32; -1 where nothing is."""

    spans: Sequence[np.ndarray] | None = None
    """Where an example is several texts that do not see each other: 1 on the tokens of the first, 2 ..., int32."""

    @property
    def lengths_N(self) -> np.ndarray:
        """Tokens of each example."""
        return np.array([len(ids) for ids in self.ids])


class Choice(NamedTuple):
    """The examples of a batch, at most as many as it has rows, and its padded length in positions."""

    indices: np.ndarray
    length: int


def padded_lengths(seq_len: int) -> list[int]:
    """Returns lengths to pad batches to, whatever comes: doubling from 16, then `seq_len`."""
    lengths = [SHORTEST]
    while lengths[-1] < seq_len:
        lengths.append(2 * lengths[-1])
    return [*lengths[:-1], seq_len]


def fitting_lengths(lengths_N: np.ndarray, longest: int) -> list[int]:
    """Returns the lengths to pad a file's batches to: multiples of 8 with as little padding as a few of them leave.

    The last is `longest`, also where the examples, which are not longer, need less: other files of the task may not.
    """
    eighths = np.unique(-(-np.maximum(lengths_N, SHORTEST) // 8) * 8)
    tried_L = np.minimum(eighths, longest)
    below_L = np.searchsorted(np.sort(lengths_N), tried_L, side="right")  # examples that fit
    # positions_L: the fewest that the examples up to each length take, that length being the last of those chosen.
    positions_L, chosen_L = below_L * tried_L, [[int(length)] for length in tried_L]
    best = [(int(positions_L[-1]), chosen_L[-1])]
    for _ in range(MOST_LENGTHS - 1):
        with_one_more = [positions_L[:i] + (below_L[i] - below_L[:i]) * tried_L[i] for i in range(1, len(tried_L))]
        before = [int(np.argmin(positions)) for positions in with_one_more]
        positions_L = np.array([positions_L[0], *(one[i] for one, i in zip(with_one_more, before, strict=True))])
        chosen_L = [chosen_L[0], *([*chosen_L[i], int(length)] for i, length in zip(before, tried_L[1:], strict=True))]
        best.append((int(positions_L[-1]), chosen_L[-1]))
    chosen = next(lengths for positions, lengths in best if positions <= NEAR * best[-1][0])
    return sorted({*chosen, longest})


def epoch_batches(
    lengths_N: np.ndarray, batch_size: int, padded: Sequence[int], *, seed: int, epoch: int
) -> list[Choice]:
    """Returns the batches of an epoch, ceil(N / batch_size) of them, a pure function of seed and epoch.

    `padded` are the lengths that they may have, ascending. Every example is in one batch, with examples of about its
    length. One batch at most is not full.
    """
    draw = np.random.default_rng((seed, epoch))
    batches = _batches(draw.permutation(len(lengths_N)), lengths_N, batch_size, padded)
    return [batches[i] for i in draw.permutation(len(batches))]


def evaluation_batches(lengths_N: np.ndarray, batch_size: int, padded: Sequence[int]) -> list[Choice]:
    """Returns batches with every example once, in the order of the file within each of the `padded` lengths."""
    return _batches(np.arange(len(lengths_N)), lengths_N, batch_size, padded)


def batches_of_tokens(lengths_N: np.ndarray, tokens: int, longest: int) -> list[Choice]:
    """Returns batches with every example once, of one padded length each, of at most so many positions, or one row."""
    batches, shorter = [], -1
    for length in padded_lengths(longest):
        (fitting,) = np.nonzero((shorter < lengths_N) & (lengths_N <= length))
        rows = max(1, tokens // length)
        batches += [Choice(fitting[start : start + rows], length) for start in range(0, len(fitting), rows)]
        shorter = length
    return batches


def _batches(order_N: np.ndarray, lengths_N: np.ndarray, batch_size: int, padded: Sequence[int]) -> list[Choice]:
    """Fills batches length by length; what is left over of one length goes on with the next."""
    batches = []
    left = np.zeros(0, order_N.dtype)
    shorter = -1
    for length in padded:
        fits_N = (shorter < lengths_N[order_N]) & (lengths_N[order_N] <= length)
        waiting = np.concatenate([left, order_N[fits_N]])
        full = len(waiting) // batch_size * batch_size
        batches += [Choice(waiting[i : i + batch_size], length) for i in range(0, full, batch_size)]
        left, shorter = waiting[full:], length
    if len(left):
        longest = int(lengths_N[left].max())
        batches.append(Choice(left, next(length for length in padded if longest <= length)))
    return batches


def side_by_side(features: Features, rows: Sequence[Sequence[int]]) -> Features:
    """Returns the examples of each row as one, in which they do not see each other; without their targets."""
    ids = [np.concatenate([features.ids[i] for i in row]) for row in rows]
    segments = [np.concatenate([features.segments[i] for i in row]) for row in rows]
    spans = [np.repeat(np.arange(1, len(row) + 1), [len(features.ids[i]) for i in row]) for row in rows]
    return Features(ids, segments, {}, features.pad_id, spans=[s.astype(np.int32) for s in spans])


def make_batch(features: Features, choice: Choice, batch_size: int) -> dict[str, np.ndarray]:
    """Returns ids, segments, positions, spans and each token target [B, S]; weights, index and each target [B].

    `spans` is 1 on tokens, or what the features say, and 0 on padding; positions begin anew with each span. Rows
    without an example are padding, with weight 0 and index -1.
    """
    shape = batch_size, choice.length
    ids_BS, segments_BS, spans_BS = np.full(shape, features.pad_id, np.int32), *np.zeros((2, *shape), np.int32)
    for row, i in enumerate(choice.indices):
        size = len(features.ids[i])
        ids_BS[row, :size], segments_BS[row, :size], spans_BS[row, :size] = features.ids[i], features.segments[i], 1
    positions_BS = np.tile(np.arange(choice.length, dtype=np.int32), (batch_size, 1))
    if features.spans is not None:
        positions_BS[:] = 0  # of padding, too: a row may be longer than the model has positions
        for row, spans in enumerate(features.spans[i] for i in choice.indices):
            spans_BS[row, : len(spans)] = spans
            positions_BS[row, : len(spans)] = np.arange(len(spans)) - np.searchsorted(spans, spans)
    tokens = {name: np.full(shape, -1, np.int32) for name in features.token_targets}
    for name, target_BS in tokens.items():
        for row, i in enumerate(choice.indices):
            target_BS[row, : len(features.ids[i])] = features.token_targets[name][i]
    index_B = np.full(batch_size, -1, np.int32)
    index_B[: len(choice.indices)] = choice.indices
    real_B = index_B >= 0
    return {
        "ids": ids_BS,
        "segments": segments_BS,
        "positions": positions_BS,
        "spans": spans_BS,
        "weights": real_B.astype(np.float32),
        "index": index_B,
        **tokens,
    } | {
        name: np.where(real_B.reshape(-1, *[1] * (target.ndim - 1)), target[index_B], 0).astype(target.dtype)
        for name, target in features.targets.items()
    }


def hide_tokens(
    ids_BS: np.ndarray, rate: float, *, mask_id: int, special_ids: Sequence[int], seed: int, step: int
) -> np.ndarray:
    """Returns ids_BS with a share `rate` of the tokens replaced by [MASK]; special ones, padding too, stay.

    Which ones follows from seed and step: an example is read with others hidden each time. The encoder knows [MASK]
    from its pretraining; a classifier of few examples then cannot learn them by heart.
    """
    draw_BS = np.random.default_rng((seed, _HIDING, step)).random(ids_BS.shape)
    return np.where((draw_BS < rate) & ~np.isin(ids_BS, special_ids), mask_id, ids_BS).astype(ids_BS.dtype)

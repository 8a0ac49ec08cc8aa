"""Dynamic masking: which tokens of a row are predicted and what the model reads in their place.

Every draw is keyed by (seed, epoch, pair), so a pair is masked the same way in whatever row, batch, process or mesh it
appears, and anew each epoch. Shape letters: B batch (rows), S position, M predicted positions, P pairs in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.config import DataConfig

TRAINING, EVALUATION = 0, 1  # streams: the masks of one say nothing of the other's


class Masked(NamedTuple):
    """Rows as the model reads them, with what it has to predict."""

    ids_BS: np.ndarray  # int32
    predict_BM: np.ndarray  # int32, positions in ascending order
    labels_BM: np.ndarray  # int32, the original ids there
    weights_BM: np.ndarray  # float32, 1 for a predicted position, 0 for filling


def predictions_per_row(c: DataConfig, pairs_per_row: int) -> int:
    """Returns M: how many predicted positions a row of that many pairs can have."""
    return min(pairs_per_row * c.max_predictions, int(c.mask_rate * c.seq_len) + pairs_per_row)


def draw(seed: int, epoch: int, pair: int, length: int, stream: int = TRAINING) -> np.ndarray:
    """Returns [3, length] uniform numbers that depend on the arguments only.

    A counter-based generator makes this O(1) in epoch and pair (Salmon et al. 2011, Philox).
    """
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=np.array([0, pair, stream, 0], np.uint64))
    return np.random.Generator(bits).random((3, length))


def mask_rows(
    ids_BS: np.ndarray,
    spans_BS: np.ndarray,
    maskable_BS: np.ndarray,
    draws_3BS: np.ndarray,
    c: DataConfig,
    *,
    pairs_per_row: int,
    mask_id: int,
    vocab_size: int,
) -> Masked:
    """Chooses a share of each pair's tokens; 80 % of them become [MASK], 10 % a random id, 10 % stay.

    Of a pair of n tokens, special ones counted, min(max_predictions, max(1, round(mask_rate * n))) are chosen without
    replacement among the maskable ones. `spans_BS` is 0 for padding and k for the k-th pair of the row.

    Source: Devlin et al. 2019, section 3.1; google-research/bert, create_pretraining_data.py, for the count.
    """
    order_draw_BS, change_draw_BS, id_draw_BS = draws_3BS
    chosen_BS = _choose(spans_BS, maskable_BS, order_draw_BS, c, pairs_per_row)
    reads_mask_BS = chosen_BS & (change_draw_BS < c.mask_token_share)
    reads_random_BS = chosen_BS & ~reads_mask_BS & (change_draw_BS < c.mask_token_share + c.random_token_share)
    random_BS = (id_draw_BS * vocab_size).astype(np.int32)
    read_BS = np.where(reads_mask_BS, mask_id, np.where(reads_random_BS, random_BS, ids_BS)).astype(np.int32)

    capacity = predictions_per_row(c, pairs_per_row)
    predict_BM = np.argsort(~chosen_BS, axis=1, kind="stable")[:, :capacity]
    weights_BM = np.take_along_axis(chosen_BS, predict_BM, axis=1)
    labels_BM = np.take_along_axis(ids_BS, predict_BM, axis=1)
    return Masked(
        ids_BS=read_BS,
        predict_BM=np.where(weights_BM, predict_BM, 0).astype(np.int32),
        labels_BM=np.where(weights_BM, labels_BM, 0).astype(np.int32),
        weights_BM=weights_BM.astype(np.float32),
    )


def _choose(
    spans_BS: np.ndarray, maskable_BS: np.ndarray, draw_BS: np.ndarray, c: DataConfig, pairs_per_row: int
) -> np.ndarray:
    """Returns which positions are predicted: in each span the maskable ones with the lowest draws."""
    members_BSP = spans_BS[:, :, None] == np.arange(1, pairs_per_row + 1)
    lengths_BP = members_BSP.sum(axis=1)
    wanted_BP = np.clip(np.round(c.mask_rate * lengths_BP), 1, c.max_predictions).astype(np.int64)
    # Sorted by span, then the maskable ones first, then by draw: a position's rank in its span decides.
    sorted_BS = np.argsort(spans_BS + np.where(maskable_BS, 0.5 * draw_BS, 0.75), axis=1, kind="stable")
    place_BS = np.empty_like(sorted_BS)
    np.put_along_axis(place_BS, sorted_BS, np.broadcast_to(np.arange(spans_BS.shape[1]), spans_BS.shape), axis=1)
    padding_B1 = (spans_BS == 0).sum(axis=1, keepdims=True)
    starts_BP = padding_B1 + np.cumsum(lengths_BP, axis=1) - lengths_BP
    index_BS = np.maximum(spans_BS - 1, 0)
    rank_BS = place_BS - np.take_along_axis(starts_BP, index_BS, axis=1)
    return maskable_BS & (spans_BS > 0) & (rank_BS < np.take_along_axis(wanted_BP, index_BS, axis=1))


def draws_for(
    spans_BS: np.ndarray, pairs: Sequence[np.ndarray], epochs: Sequence[int], *, seed: int, stream: int
) -> np.ndarray:
    """Returns the draws_3BS of a batch; `pairs[b]` names the pairs of row b in their order, `epochs[b]` its epoch."""
    draws_3BS = np.ones((3, *spans_BS.shape))
    for b, (row_pairs, epoch) in enumerate(zip(pairs, epochs, strict=True)):
        for k, pair in enumerate(row_pairs, start=1):
            where_S = spans_BS[b] == k
            draws_3BS[:, b, where_S] = draw(seed, epoch, int(pair), int(where_S.sum()), stream)
    return draws_3BS

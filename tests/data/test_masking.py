"""Masking: the count, the shares, and that a pair's mask depends on nothing but (seed, epoch, pair)."""

from __future__ import annotations

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data import masking

CLS, SEP, MASK, VOCAB = 2, 3, 4, 1000
C = DataConfig(seq_len=128, max_predictions=20)


def rows(lengths: list[list[int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns ids_BS, spans_BS, maskable_BS of rows whose pairs have these lengths, [CLS] first and [SEP] last."""
    rng = np.random.default_rng(seed)
    ids_BS = np.zeros((len(lengths), C.seq_len), np.int32)
    spans_BS = np.zeros_like(ids_BS)
    for b, row in enumerate(lengths):
        start = 0
        for k, n in enumerate(row, start=1):
            ids_BS[b, start : start + n] = [CLS, *rng.integers(5, VOCAB, n - 2), SEP]
            spans_BS[b, start : start + n] = k
            start += n
    return ids_BS, spans_BS, (spans_BS > 0) & (ids_BS != CLS) & (ids_BS != SEP)


def mask(
    lengths: list[list[int]], pairs: list[list[int]], *, epoch: int = 0, seed: int = 0, c: DataConfig = C
) -> tuple[np.ndarray, np.ndarray, masking.Masked]:
    ids_BS, spans_BS, maskable_BS = rows(lengths)
    draws_3BS = masking.draws_for(
        spans_BS, [np.array(p) for p in pairs], [epoch] * len(pairs), seed=seed, stream=masking.TRAINING
    )
    pairs_per_row = max(len(p) for p in pairs)
    masked = masking.mask_rows(
        ids_BS, spans_BS, maskable_BS, draws_3BS, c, pairs_per_row=pairs_per_row, mask_id=MASK, vocab_size=VOCAB
    )
    return ids_BS, maskable_BS, masked


@pytest.mark.parametrize(("length", "count"), [(128, 19), (100, 15), (5, 1), (3, 1), (10, 2), (50, 8)])
def test_count_is_googles(length: int, count: int) -> None:
    # round(0.15 n) with halves to even, as Python rounds: 0.15 * 10 = 1.5 gives 2.
    assert mask([[length]], [[0]])[2].weights_BM.sum() == count


def test_count_is_capped() -> None:
    c = DataConfig(seq_len=128, max_predictions=7)
    assert mask([[128]], [[0]], c=c)[2].weights_BM.tolist() == [[1.0] * 7]


def test_labels_are_the_originals_and_the_rest_is_untouched() -> None:
    ids_BS, maskable_BS, masked = mask([[128], [60], [40, 50]], [[0], [1], [2, 3]])
    changed_BS = masked.ids_BS != ids_BS
    for b in range(len(ids_BS)):
        chosen = masked.predict_BM[b][masked.weights_BM[b] > 0]
        assert (np.diff(chosen) > 0).all()
        assert maskable_BS[b, chosen].all()
        assert masked.labels_BM[b][masked.weights_BM[b] > 0].tolist() == ids_BS[b, chosen].tolist()
        assert set(np.flatnonzero(changed_BS[b])) <= set(chosen)


def test_shares_are_80_10_10() -> None:
    counts = np.zeros(3)
    for epoch in range(40):
        _, _, masked = mask([[128]] * 8, [[i] for i in range(8)], epoch=epoch)
        read_BM = np.take_along_axis(masked.ids_BS, masked.predict_BM, axis=1)[masked.weights_BM > 0]
        labels = masked.labels_BM[masked.weights_BM > 0]
        counts += [(read_BM == MASK).sum(), ((read_BM != MASK) & (read_BM != labels)).sum(), (read_BM == labels).sum()]
    n = counts.sum()
    for count, share in zip(counts, (0.8, 0.1, 0.1), strict=True):
        assert abs(count / n - share) < 4 * np.sqrt(share * (1 - share) / n) + 1 / VOCAB


def test_every_position_is_as_likely_and_random_ids_cover_the_vocabulary() -> None:
    hits_S, drawn = np.zeros(C.seq_len), []
    for epoch in range(300):
        ids_BS, _, masked = mask([[64]] * 4, [[i] for i in range(4)], epoch=epoch)
        hits_S += np.bincount(masked.predict_BM[masked.weights_BM > 0], minlength=C.seq_len)
        drawn.append(masked.ids_BS[(masked.ids_BS != ids_BS) & (masked.ids_BS != MASK)])
    expected = 300 * 4 * 10 / 62  # round(0.15 * 64) of 62 maskable positions
    assert abs(hits_S[1:63] - expected).max() < 5 * np.sqrt(expected)
    assert hits_S[[0, 63]].sum() == 0
    ids = np.concatenate(drawn)
    assert ids.min() < 0.02 * VOCAB
    assert ids.max() > 0.98 * VOCAB
    assert abs(ids.mean() - VOCAB / 2) < 5 * VOCAB / np.sqrt(12 * len(ids))


def test_a_pair_is_masked_alike_packed_or_not_and_in_any_row() -> None:
    alone_a, alone_b = mask([[40]], [[7]])[2], mask([[50]], [[9]])[2]
    packed = mask([[128], [40, 50]], [[1], [7, 9]])[2]
    places = packed.predict_BM[1][packed.weights_BM[1] > 0]
    assert places[places < 40].tolist() == alone_a.predict_BM[0][alone_a.weights_BM[0] > 0].tolist()
    assert (places[places >= 40] - 40).tolist() == alone_b.predict_BM[0][alone_b.weights_BM[0] > 0].tolist()


def test_epoch_seed_pair_and_stream_each_change_the_draws() -> None:
    base = masking.draw(0, 0, 0, 64)
    assert (base == masking.draw(0, 0, 0, 64)).all()
    others = [masking.draw(1, 0, 0, 64), masking.draw(0, 1, 0, 64), masking.draw(0, 0, 1, 64)]
    others.append(masking.draw(0, 0, 0, 64, masking.EVALUATION))
    assert all((base != other).all() for other in others)


def test_rows_have_room_for_the_predictions_of_all_their_pairs() -> None:
    for lengths in ([[128]], [[3] * 40], [[10] * 12], [[30, 30, 30, 38]]):
        ids_BS, spans_BS, maskable_BS = rows(lengths)
        _, counts = np.unique(spans_BS[spans_BS > 0], return_counts=True)
        wanted = np.clip(np.round(0.15 * counts), 1, 20).sum()
        got = mask(lengths, [list(range(len(lengths[0])))])[2].weights_BM.sum()
        assert got == wanted, (lengths, ids_BS.shape, maskable_BS.sum())

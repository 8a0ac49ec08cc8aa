"""Masking: the count, the shares, and that a pair's mask depends on nothing but (seed, epoch, pair)."""

from __future__ import annotations

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data import masking

CLS, SEP, MASK, VOCAB = 2, 3, 4, 1000
C = DataConfig(seq_len=128, max_predictions=20)
CONTINUES_V = np.arange(VOCAB) >= 700  # three pieces of ten
GOLDEN_PLACES = [2, 6, 14, 19, 26, 31]


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
    draws_4BS = masking.draws_for(
        spans_BS, [np.array(p) for p in pairs], [epoch] * len(pairs), seed=seed, stream=masking.TRAINING
    )
    pairs_per_row = max(len(p) for p in pairs)
    masked = masking.mask_rows(
        ids_BS, spans_BS, maskable_BS, draws_4BS, c, pairs_per_row=pairs_per_row, mask_id=MASK, continues_V=CONTINUES_V
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


def test_the_draws_of_a_pair_stay_what_they_were() -> None:
    # A change here changes every curve.
    _, _, masked = mask([[40]], [[7]], epoch=3, seed=5)
    assert masked.predict_BM[0][masked.weights_BM[0] > 0].tolist() == GOLDEN_PLACES


def test_draws_of_a_batch_are_those_of_its_pairs_and_of_philox() -> None:
    _, spans_BS, _ = rows([[40, 50], [128]])
    draws_4BS = masking.draws_for(spans_BS, [np.array([7, 2**40]), np.array([9])], [3, 4], seed=5, stream=1)
    assert (draws_4BS[:, 0, 40:90] == masking.draw(5, 3, 2**40, 50, 1)).all()
    assert (draws_4BS[:, 1] == masking.draw(5, 4, 9, 128, 1)).all()
    philox = np.random.Philox(key=np.array([5, 3], np.uint64), counter=np.array([0, 7, 1, 0], np.uint64))
    assert (draws_4BS[:, 0, :40] == np.random.Generator(philox).random((4, 40))).all()


def words_of(ids_BS: np.ndarray, maskable_BS: np.ndarray) -> list[list[tuple[int, ...]]]:
    """Returns for each row the positions of each of its words, found a piece at a time."""
    rows_of_words = []
    for ids, maskable in zip(ids_BS, maskable_BS, strict=True):
        words: list[tuple[int, ...]] = []
        for place in np.flatnonzero(maskable).tolist():
            if CONTINUES_V[ids[place]] and maskable[place - 1]:
                words[-1] += (place,)
            else:
                words.append((place,))
        rows_of_words.append(words)
    return rows_of_words


def chosen_places(masked: masking.Masked) -> list[set[int]]:
    rows = zip(masked.predict_BM, masked.weights_BM, strict=True)
    return [set(places[weights > 0].tolist()) for places, weights in rows]


LENGTHS = [[128], [64, 60], [5, 30, 90], [10] * 12]
PAIRS = [[1], [2, 3], [4, 5, 6], list(range(7, 19))]


def plainly_chosen(words: list[tuple[int, ...]], draw_4S: np.ndarray, wanted: int, longest: int) -> set[int]:
    """The choice in one pair, a word at a time, as the rule is stated; draws are by the place in the pair."""
    taken: set[int] = set()
    for index in sorted(range(len(words)), key=lambda index: draw_4S[0, words[index][0]]):
        run = [words[index]]
        while len(run) < longest and index + len(run) < len(words) and words[index + len(run)][0] == run[-1][-1] + 1:
            run.append(words[index + len(run)])
        weights = np.cumsum([1 / n for n in range(1, len(run) + 1)])
        run = run[: 1 + int((draw_4S[3, words[index][0]] * weights[-1] >= weights).sum())]
        while run and len(taken) + sum(map(len, run)) > wanted:
            run.pop()
        if not any(taken & set(word) for word in run):
            taken.update(place for word in run for place in word)
    return taken


@pytest.mark.parametrize(("masking_", "longest"), [("whole_word", 1), ("ngram", 3), ("ngram", 5)])
def test_whole_words_are_chosen_as_by_the_plain_rule_in_every_pair(masking_: str, longest: int) -> None:
    c = DataConfig(seq_len=128, max_predictions=20, masking=masking_, ngram_max=longest)  # type: ignore[arg-type]
    for epoch in range(20):
        ids_BS, maskable_BS, masked = mask(LENGTHS, PAIRS, epoch=epoch, c=c)
        words = words_of(ids_BS, maskable_BS)
        for b, (lengths, pairs) in enumerate(zip(LENGTHS, PAIRS, strict=True)):
            expected, start = set(), 0
            for length, pair in zip(lengths, pairs, strict=True):
                own = [tuple(p - start for p in word) for word in words[b] if start <= word[0] < start + length]
                wanted = int(np.clip(np.round(0.15 * length), 1, 20))
                places = plainly_chosen(own, masking.draw(0, epoch, pair, length), wanted, longest)
                expected |= {start + place for place in places}
                start += length
            assert chosen_places(masked)[b] == expected


@pytest.mark.parametrize("masking_", ["whole_word", "ngram"])
def test_words_are_never_split_and_the_budget_is_nearly_used(masking_: str) -> None:
    c = DataConfig(seq_len=128, max_predictions=20, masking=masking_)  # type: ignore[arg-type]
    counts = []
    for epoch in range(50):
        ids_BS, maskable_BS, masked = mask([[128]] * 4, [[b] for b in range(4)], epoch=epoch, c=c)
        for words, chosen in zip(words_of(ids_BS, maskable_BS), chosen_places(masked), strict=True):
            assert all(len(chosen & set(word)) in (0, len(word)) for word in words)
            counts.append(len(chosen))
    assert max(counts) == 19
    assert np.mean(counts) > 18.9  # what is left is filled by words of one piece


def test_every_word_is_as_likely_whatever_its_length() -> None:
    c = DataConfig(seq_len=128, masking="whole_word", mask_rate=0.05)
    chosen, all_sizes = [], []
    for epoch in range(1000):
        ids_BS, maskable_BS, masked = mask([[128]], [[0]], epoch=epoch, c=c)
        words = words_of(ids_BS, maskable_BS)[0]
        all_sizes += [len(word) for word in words]
        chosen += [len(word) for word in words if word[0] in chosen_places(masked)[0]]
    shares = [np.mean(np.array(sizes) == 1) for sizes in (all_sizes, chosen)]
    # Six of 126 pieces: the last ones are rarely those of a long word, so that short ones gain a little.
    assert 0 < shares[1] - shares[0] < 0.12


def test_lengths_of_ngrams_are_as_one_over_n() -> None:
    c = DataConfig(seq_len=128, masking="ngram", ngram_max=3, mask_rate=3 / 128)  # a run and no more, or three alone
    first = []
    for epoch in range(1500):
        ids_BS, maskable_BS, masked = mask([[128]], [[0]], epoch=epoch, c=c)
        words = words_of(ids_BS, maskable_BS)[0]
        starts = [place for place in masking.draw(0, epoch, 0, 128)[0].argsort() if any(place == w[0] for w in words)]
        index = next(i for i, word in enumerate(words) if word[0] == starts[0])
        three = words[index : index + 3]
        if len(three) == 3 and sum(map(len, three)) == 3:
            first.append(next((n for n in range(3) if three[n][0] not in chosen_places(masked)[0]), 3))
    shares = np.bincount(first, minlength=4)[1:] / len(first)
    assert len(first) > 300
    # A run of one may be followed at once by another word: 2 of 126 places.
    for share, expected in zip(shares, (6 / 11, 3 / 11, 2 / 11), strict=True):
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(first)) + 0.02


def test_a_run_stays_in_its_segment_and_its_pair() -> None:
    ids_BS = np.array([[CLS, 10, SEP, 11, SEP, CLS, 12, SEP, 13, SEP]], np.int32)
    spans_BS = np.array([[1] * 5 + [2] * 5], np.int32)
    maskable_BS = ids_BS >= 10
    words = masking._find_words(spans_BS, maskable_BS, np.zeros_like(maskable_BS), 2)
    assert (masking._run_tokens(words, 3)[1:] >= masking._TOO_MANY).all()
    assert words.pairs_W.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("pairs", [1, 300, 70_000])
def test_words_are_ordered_by_pair_and_then_by_draw(pairs: int) -> None:
    draw = np.random.default_rng(0)
    pairs_W, draw_W = np.sort(draw.integers(pairs, size=5000)), draw.random(5000)
    np.testing.assert_array_equal(masking._ordered(pairs_W, draw_W), np.lexsort((draw_W, pairs_W)))

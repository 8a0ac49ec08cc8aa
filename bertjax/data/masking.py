"""Dynamic masking: which tokens of a row are predicted and what the model reads in their place.

Every draw is keyed by (seed, epoch, pair), so a pair is masked the same way in whatever row, batch, process or mesh it
appears, and anew each epoch. Shape letters: B batch (rows), S position, M predicted positions, P pairs in a row, V
vocabulary, N pairs of all rows, W words of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bertjax.config import DataConfig

TRAINING, EVALUATION = 0, 1  # streams: the masks of one say nothing of the other's
_NOTHING_BUFFERED = np.zeros(4, np.uint64)
_TOO_MANY = 1 << 30  # more tokens than any pair has


class Masked(NamedTuple):
    """Rows as the model reads them, with what it has to predict."""

    ids_BS: np.ndarray  # int32
    predict_BM: np.ndarray  # int32, positions in ascending order
    labels_BM: np.ndarray  # int32, the original ids there
    weights_BM: np.ndarray  # float32, 1 for a predicted position, 0 for filling


def predictions_per_row(c: DataConfig, pairs_per_row: int) -> int:
    """Returns M: how many predicted positions a row of that many pairs can have.

    A pair may have `max_predictions`, but rows have no more tokens for being packed: 84 for 8 pairs in 512 positions.
    """
    return min(pairs_per_row * c.max_predictions, int(c.mask_rate * c.seq_len) + pairs_per_row)


def draw(seed: int, epoch: int, pair: int, length: int, stream: int = TRAINING) -> np.ndarray:
    """Returns [4, length] uniform numbers that depend on the arguments only.

    A counter-based generator makes this O(1) in epoch and pair (Salmon et al. 2011, Philox).
    """
    bits = np.random.Philox(0)
    _set_state(bits, seed, epoch, pair, stream)
    return np.random.Generator(bits).random((4, length))


def _set_state(bits: np.random.Philox, seed: int, epoch: int, pair: int, stream: int) -> None:
    """Puts the generator where one of this key and counter starts; to make a new one would take twice as long."""
    bits.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array((0, pair, stream, 0), np.uint64),
            "key": np.array((seed, epoch), np.uint64),
        },
        "buffer": _NOTHING_BUFFERED,
        "buffer_pos": len(_NOTHING_BUFFERED),
        "has_uint32": 0,
        "uinteger": 0,
    }


def mask_rows(
    ids_BS: np.ndarray,
    spans_BS: np.ndarray,
    maskable_BS: np.ndarray,
    draws_4BS: np.ndarray,
    c: DataConfig,
    *,
    pairs_per_row: int,
    mask_id: int,
    continues_V: np.ndarray,
) -> Masked:
    """Chooses a share of each pair's tokens; 80 % of them become [MASK], 10 % a random id, 10 % stay.

    Of a pair of n tokens, special ones counted, min(max_predictions, max(1, round(mask_rate * n))) are chosen without
    replacement among the maskable ones; where whole words are, at most as many. `spans_BS` is 0 for padding and k for
    the k-th pair of the row; `continues_V` tells the ids that continue a word.

    Source: Devlin et al. 2019, section 3.1; google-research/bert, create_pretraining_data.py, for the count.
    """
    order_draw_BS, change_draw_BS, id_draw_BS, length_draw_BS = draws_4BS
    counts_BP = prediction_counts(spans_BS, c, pairs_per_row)
    if c.masking == "token":
        chosen_BS = _choose_tokens(spans_BS, maskable_BS, order_draw_BS, counts_BP)
    else:
        words = _find_words(spans_BS, maskable_BS, continues_V[ids_BS], pairs_per_row)
        longest = c.ngram_max if c.masking == "ngram" else 1
        chosen_BS = _choose_words(words, order_draw_BS, length_draw_BS, counts_BP, longest)
    reads_mask_BS = chosen_BS & (change_draw_BS < c.mask_token_share)
    reads_random_BS = chosen_BS & ~reads_mask_BS & (change_draw_BS < c.mask_token_share + c.random_token_share)
    random_BS = (id_draw_BS * len(continues_V)).astype(np.int32)
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


def prediction_counts(spans_BS: np.ndarray, c: DataConfig, pairs_per_row: int) -> np.ndarray:
    """Returns counts_BP, how many positions of each pair are to be predicted; 0 where there is no pair."""
    lengths_BP = _lengths(spans_BS, pairs_per_row)
    counts_BP = np.clip(np.round(c.mask_rate * lengths_BP), 1, c.max_predictions).astype(np.int64)
    return np.where(lengths_BP > 0, counts_BP, 0)


def _lengths(spans_BS: np.ndarray, pairs_per_row: int) -> np.ndarray:
    rows = len(spans_BS)
    slots_BS = spans_BS + np.arange(rows)[:, None] * (pairs_per_row + 1)
    lengths = np.bincount(slots_BS.ravel(), minlength=rows * (pairs_per_row + 1))
    return lengths.reshape(rows, pairs_per_row + 1)[:, 1:]


def _choose_tokens(
    spans_BS: np.ndarray, maskable_BS: np.ndarray, draw_BS: np.ndarray, counts_BP: np.ndarray
) -> np.ndarray:
    """Returns which positions are predicted: in each span the maskable ones with the lowest draws."""
    lengths_BP = _lengths(spans_BS, counts_BP.shape[1])
    # Sorted by span, then the maskable ones first, then by draw: a position's rank in its span decides.
    # Which of the others comes first does not matter, and a sort that need not be stable is faster.
    sorted_BS = np.argsort(spans_BS + np.where(maskable_BS, 0.5 * draw_BS, 0.75), axis=1)
    place_BS = np.empty_like(sorted_BS)
    np.put_along_axis(place_BS, sorted_BS, np.broadcast_to(np.arange(spans_BS.shape[1]), spans_BS.shape), axis=1)
    padding_B1 = (spans_BS == 0).sum(axis=1, keepdims=True)
    starts_BP = padding_B1 + np.cumsum(lengths_BP, axis=1) - lengths_BP
    index_BS = np.maximum(spans_BS - 1, 0)
    rank_BS = place_BS - np.take_along_axis(starts_BP, index_BS, axis=1)
    return maskable_BS & (spans_BS > 0) & (rank_BS < np.take_along_axis(counts_BP, index_BS, axis=1))


class _Words(NamedTuple):
    """The words of all rows, in their order."""

    word_BS: np.ndarray  # index of the word, -1 for a position that is not maskable
    starts_W: np.ndarray  # first position, of all positions of the batch
    sizes_W: np.ndarray  # word pieces
    pairs_W: np.ndarray  # which of the B * P pairs


def _find_words(spans_BS: np.ndarray, maskable_BS: np.ndarray, continues_BS: np.ndarray, pairs_per_row: int) -> _Words:
    """Returns the words: a maskable piece with the continuing ones after it; one alone, cut off, is a word."""
    before_BS = np.pad(maskable_BS[:, :-1] & (spans_BS[:, 1:] == spans_BS[:, :-1]), ((0, 0), (1, 0)))
    begins_BS = maskable_BS & ~(continues_BS & before_BS)
    word_BS = np.where(maskable_BS, np.cumsum(begins_BS).reshape(begins_BS.shape) - 1, -1)
    starts_W = np.flatnonzero(begins_BS)
    pairs_BS = spans_BS - 1 + pairs_per_row * np.arange(len(spans_BS))[:, None]
    sizes_W = np.bincount(word_BS[maskable_BS], minlength=len(starts_W))
    return _Words(word_BS, starts_W, sizes_W, pairs_BS.ravel()[starts_W])


def _choose_words(
    words: _Words, order_draw_BS: np.ndarray, length_draw_BS: np.ndarray, counts_BP: np.ndarray, longest: int
) -> np.ndarray:
    """Returns which positions are predicted: runs of whole words, one after the other by their first word's draw.

    A run has n words, n up to `longest` with probability proportional to 1/n. One that would exceed what is left to
    predict is shortened, or else skipped, as is one that meets a word that is taken already.

    Source: google-research/bert and google-research/albert, create_pretraining_data.py.
    Differs from: ALBERT, in that a run does not go on behind a [SEP].
    """
    tokens_NW = _run_tokens(words, longest)
    runs_W = _run_lengths(tokens_NW, length_draw_BS.ravel()[words.starts_W])
    order_W = _ordered(words.pairs_W, order_draw_BS.ravel()[words.starts_W])
    words_N = np.bincount(words.pairs_W, minlength=counts_BP.size)
    first_N = np.cumsum(words_N) - words_N
    left_N = counts_BP.ravel().copy()
    taken_W = np.zeros(len(words.starts_W) + 1, bool)  # the last for what is no word
    # Pairs are independent, so that one step of the loop serves all of them: the r-th word of each.
    open_N = np.flatnonzero((left_N > 0) & (words_N > 0))
    r = 0
    while len(open_N):
        word_N = order_W[first_N[open_N] + r]
        fits_N = np.zeros(len(open_N), np.int64)
        for n in range(1, longest + 1):
            fits_N[(n <= runs_W[word_N]) & (tokens_NW[n - 1, word_N] <= left_N[open_N])] = n
        free_N = fits_N > 0
        for n in range(longest):
            free_N &= (n >= fits_N) | ~taken_W[np.minimum(word_N + n, len(taken_W) - 1)]
        for n in range(longest):
            taken_W[(word_N + n)[free_N & (n < fits_N)]] = True
        left_N[open_N[free_N]] -= tokens_NW[fits_N[free_N] - 1, word_N[free_N]]
        r += 1
        open_N = open_N[(left_N[open_N] > 0) & (words_N[open_N] > r)]
    return taken_W[words.word_BS]


def _ordered(pairs_W: np.ndarray, draw_W: np.ndarray) -> np.ndarray:
    """Returns what np.lexsort((draw_W, pairs_W)) would; pairs of a small type are sorted by their digits."""
    by_draw_W = np.argsort(draw_W)
    pairs = pairs_W.astype(np.min_scalar_type(pairs_W.max(initial=0)))
    return by_draw_W[np.argsort(pairs[by_draw_W], kind="stable")]


def _run_tokens(words: _Words, longest: int) -> np.ndarray:
    """Returns tokens_NW: the pieces of n words (row n - 1) from each word on; too many to fit where there are fewer."""
    ends_W = words.starts_W + words.sizes_W
    adjoins_W = np.append((ends_W[:-1] == words.starts_W[1:]) & (words.pairs_W[:-1] == words.pairs_W[1:]), [False])
    tokens_NW = np.full((longest, len(ends_W)), _TOO_MANY)
    tokens_NW[0] = words.sizes_W
    for n in range(1, longest):
        going_on_W = np.flatnonzero(adjoins_W)  # here a word and then a run of n
        tokens_NW[n, going_on_W] = words.sizes_W[going_on_W] + tokens_NW[n - 1, going_on_W + 1]
    return np.minimum(tokens_NW, _TOO_MANY)


def _run_lengths(tokens_NW: np.ndarray, draw_W: np.ndarray) -> np.ndarray:
    """Returns how many words a run from each word is to have, among those that there are."""
    cumulative_N = np.cumsum(1 / np.arange(1, len(tokens_NW) + 1))
    possible_W = (tokens_NW < _TOO_MANY).sum(axis=0)
    return 1 + np.searchsorted(cumulative_N, draw_W * cumulative_N[possible_W - 1], side="right")


def draws_for(
    spans_BS: np.ndarray, pairs: Sequence[np.ndarray], epochs: Sequence[int], *, seed: int, stream: int
) -> np.ndarray:
    """Returns the draws_4BS of a batch; `pairs[b]` names the pairs of row b in their order, `epochs[b]` its epoch.

    Pairs follow each other from the first position on.
    """
    bits = np.random.Philox(0)
    generator = np.random.Generator(bits)
    draws_4BS = np.zeros((4, *spans_BS.shape))
    ends_BP = np.cumsum(_lengths(spans_BS, max(map(len, pairs), default=0)), axis=1).tolist()
    for b, (row_pairs, epoch) in enumerate(zip(pairs, epochs, strict=True)):
        start = 0
        for pair, end in zip(row_pairs.tolist(), ends_BP[b], strict=False):
            _set_state(bits, seed, epoch, pair, stream)
            draws_4BS[:, b, start:end] = generator.random((4, end - start))
            start = end
    return draws_4BS

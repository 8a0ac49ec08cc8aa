from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from bertjax.tasks.batches import (
    Choice,
    Features,
    epoch_batches,
    evaluation_batches,
    fitting_lengths,
    hide_tokens,
    make_batch,
    padded_lengths,
)

LENGTHS = np.random.default_rng(0).integers(3, 129, 333)


def test_padded_lengths() -> None:
    assert padded_lengths(128) == [16, 32, 64, 128]
    assert padded_lengths(100) == [16, 32, 64, 100]
    assert padded_lengths(12) == [12]


@pytest.mark.parametrize("seed", range(5))
def test_fitting_lengths_leave_the_least_padding(seed: int) -> None:
    lengths_N = np.random.default_rng(seed).geometric(0.05, 100).clip(3, 60)

    def positions(lengths: Sequence[int]) -> int:
        return sum(min(one for one in lengths if one >= length) for length in lengths_N)

    last = max(16, -(-int(lengths_N.max()) // 8) * 8)
    shorter = list(range(16, last, 8))
    least = {
        count: min(positions([*some, last]) for some in itertools.combinations(shorter, count - 1))
        for count in range(1, 1 + min(4, 1 + len(shorter)))
    }
    found = fitting_lengths(lengths_N, last)
    assert found == sorted(set(found))
    assert found[-1] == last
    assert positions(found) == least[len(found)]
    assert least[len(found)] <= 1.1 * min(least.values()) < least.get(len(found) - 1, np.inf)


def test_fitting_lengths_end_with_the_longest_that_may_come() -> None:
    assert fitting_lengths(np.array([5, *[20] * 9]), 100) == [24, 100]  # 16 would save a thirtieth
    assert fitting_lengths(np.array([5, 12]), 12) == [12]
    assert fitting_lengths(np.array([97, 98, 100]), 100) == [100]


@pytest.mark.parametrize("epoch", range(3))
@pytest.mark.parametrize("batch_size", [1, 8, 32, 1000])
def test_an_epoch_has_every_example_once(batch_size: int, epoch: int) -> None:
    batches = epoch_batches(LENGTHS, batch_size, padded_lengths(128), seed=1, epoch=epoch)
    assert sorted(np.concatenate([b.indices for b in batches])) == list(range(333))
    assert len(batches) == -(-333 // batch_size)
    assert sum(len(b.indices) < batch_size for b in batches) <= 1


def test_no_batch_is_longer_than_it_must_be() -> None:
    for indices, length in epoch_batches(LENGTHS, 8, padded_lengths(128), seed=1, epoch=0):
        assert LENGTHS[indices].max() <= length
        assert length == min(size for size in (16, 32, 64, 128) if LENGTHS[indices].max() <= size)
    lengths = [length for _, length in epoch_batches(LENGTHS, 8, padded_lengths(128), seed=1, epoch=0)]
    assert 8 * sum(lengths) < 0.8 * 128 * 333
    assert lengths != sorted(lengths)


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = epoch_batches(LENGTHS, 8, padded_lengths(128), seed=seed, epoch=epoch)
        return [int(i) for batch in batches for i in batch.indices]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_evaluation_keeps_the_order_within_a_length() -> None:
    batches = evaluation_batches(np.array([5, 40, 6, 7, 41, 100]), 2, padded_lengths(128))
    assert [(b.indices.tolist(), b.length) for b in batches] == [([0, 2], 16), ([3, 1], 64), ([4, 5], 128)]
    assert evaluation_batches(np.array([5, 6, 7]), 2, padded_lengths(128))[-1].length == 16


def test_a_batch_by_hand() -> None:
    features = Features(
        ids=[np.array([2, 9, 3], np.int32), np.array([2, 3], np.int32), np.array([2, 7, 3, 8, 3], np.int32)],
        segments=[np.array([0, 0, 0], np.int32), np.array([0, 0], np.int32), np.array([0, 0, 0, 1, 1], np.int32)],
        targets={"labels": np.array([1, -1, 4], np.int32), "scores": np.array([0.5, 1.5, 2.5], np.float32)},
        pad_id=6,
    )
    batch = make_batch(features, Choice(np.array([2, 0]), 6), batch_size=3)
    expected = {
        "ids": [[2, 7, 3, 8, 3, 6], [2, 9, 3, 6, 6, 6], [6] * 6],
        "segments": [[0, 0, 0, 1, 1, 0], [0] * 6, [0] * 6],
        "positions": [list(range(6))] * 3,
        "spans": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [0] * 6],
        "labels": [4, 1, 0],
        "scores": [2.5, 0.5, 0],
        "weights": [1, 1, 0],
        "index": [2, 0, -1],
    }
    assert {name: x.tolist() for name, x in batch.items()} == expected
    assert {name for name, x in batch.items() if x.dtype == np.float32} == {"weights", "scores"}
    assert all(x.dtype in (np.int32, np.float32) for x in batch.values())
    assert features.lengths_N.tolist() == [3, 2, 5]


def test_hidden_tokens_are_others_each_step_and_never_special() -> None:
    ids = np.random.default_rng(0).integers(5, 99, (64, 32), dtype=np.int32)
    ids[:, 0], ids[:, 20], ids[:, 21:] = 2, 3, 0

    def hidden(step: int, rate: float = 0.3, seed: int = 0) -> np.ndarray:
        return hide_tokens(ids, rate, mask_id=4, special_ids=(0, 2, 3, 4), seed=seed, step=step)

    first = hidden(7)
    assert first.dtype == np.int32
    np.testing.assert_array_equal(first, hidden(7))
    assert all((first != other).any() for other in (hidden(8), hidden(7, seed=1)))
    changed = first != ids
    assert (first[changed] == 4).all()
    assert not changed[:, [0, *range(20, 32)]].any()
    assert changed[:, 1:20].mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(hidden(7, rate=0.0), ids)


def test_targets_of_tokens_are_padded_with_none() -> None:
    ids = [np.array([1, 5, 2], np.int32), np.array([1, 2], np.int32)]
    tags = [np.array([-1, 4, -1], np.int32), np.array([-1, 7], np.int32)]
    features = Features(ids, [np.zeros_like(row) for row in ids], {}, 0, token_targets={"tags": tags})
    batch = make_batch(features, Choice(np.array([1, 0]), 4), 3)
    assert batch["tags"].tolist() == [[-1, 7, -1, -1], [-1, 4, -1, -1], [-1] * 4]

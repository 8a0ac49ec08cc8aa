"""Packing: every pair once, no row overfull, the same rows always, and hardly a slot left over."""

from __future__ import annotations

import numpy as np
import pytest

from bertjax.data.packing import pack


@pytest.mark.parametrize("pairs_per_row", [1, 2, 8])
def test_every_pair_is_in_one_row_and_no_row_is_overfull(pairs_per_row: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 129, 2000).tolist()
    rows = pack(lengths, row_lengths=[128], per_row=pairs_per_row)
    assert sorted(index for row in rows for index in row) == list(range(2000))
    assert max(sum(lengths[index] for index in row) for row in rows) <= 128
    assert max(map(len, rows)) <= pairs_per_row
    assert rows == pack(lengths, row_lengths=[128], per_row=pairs_per_row)


def test_a_pair_goes_where_it_leaves_least() -> None:
    assert pack([10, 6, 7, 3, 4], row_lengths=[10], per_row=8) == [[0], [2, 3], [1, 4]]


def test_rows_are_as_full_as_by_the_plain_rule() -> None:
    lengths = np.random.default_rng(1).integers(5, 60, 300).tolist()
    plain: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [used for used in plain if used + length <= 64]
        if fitting:
            plain[plain.index(max(fitting))] += length
        else:
            plain.append(length)
    rows = pack(lengths, row_lengths=[64], per_row=300)
    assert sorted(sum(lengths[index] for index in row) for row in rows) == sorted(plain)


def test_hardly_a_slot_is_left_over() -> None:
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(3000) < 0.4, 512, rng.integers(8, 512, 3000)).tolist()
    rows = pack(lengths, row_lengths=[512], per_row=8)
    assert sum(lengths) / (512 * len(rows)) > 0.99


def test_a_pair_that_fits_nowhere_is_a_bug() -> None:
    with pytest.raises(ValueError, match="65 positions do not fit into a row of 64"):
        pack([3, 65], row_lengths=[64], per_row=2)


def test_a_new_row_is_no_longer_than_its_first_needs() -> None:
    rows = pack([100, 20, 60, 30, 20], row_lengths=[32, 64, 128], per_row=8)
    assert rows == [[0, 1], [2], [3], [4]]  # 20 fits after 100 in 128; 60 opens one of 64, 30 and 20 each one of 32


def test_no_pairs_are_no_rows() -> None:
    assert pack([], row_lengths=[64], per_row=2) == []

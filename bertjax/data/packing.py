"""Which pairs share a row: best-fit decreasing, which leaves least where lengths are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], *, row_length: int, pairs_per_row: int) -> list[list[int]]:
    """Returns rows of indices into `lengths`, each of at most `pairs_per_row` and of `row_length` positions in all.

    The longest come first, each into the fullest row that still has room for it; a function of the arguments only.

    Raises: ValueError if one is longer than a row.
    Source: Johnson 1973, Near-optimal bin packing algorithms.
    """
    if max(lengths, default=0) > row_length:
        raise ValueError(f"a pair of {max(lengths)} positions does not fit into a row of {row_length}")
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows that may take another pair
    rooms = 0  # bit r: there is a row with room for exactly r; finds the fullest without looking at each
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            rows[row].append(index)
        else:
            room, row = row_length, len(rows)
            rows.append([index])
        left = room - length
        if left and len(rows[row]) < pairs_per_row:
            by_room[left].append(row)
            rooms |= 1 << left
    return rows

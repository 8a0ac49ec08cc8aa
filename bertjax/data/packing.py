"""Which pairs or texts share a row: best-fit decreasing, which leaves least where lengths are known beforehand."""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], *, row_lengths: Sequence[int], per_row: int) -> list[list[int]]:
    """Returns rows of indices into `lengths`, each of at most `per_row`, the longest of a row first.

    The longest come first, each into the fullest row that still has room for it, or else into a new one, of the first
    of the ascending `row_lengths` that takes it; a function of the arguments only.

    Raises: ValueError if one is longer than all rows.
    Source: Johnson 1973, Near-optimal bin packing algorithms.
    """
    if max(lengths, default=0) > row_lengths[-1]:
        raise ValueError(f"{max(lengths)} positions do not fit into a row of {row_lengths[-1]}")
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(row_lengths[-1] + 1)]  # rows that may take another
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
            room, row = row_lengths[bisect.bisect_left(row_lengths, length)], len(rows)
            rows.append([index])
        left = room - length
        if left and len(rows[row]) < per_row:
            by_room[left].append(row)
            rooms |= 1 << left
    return rows

"""Windows over a text that is too long for one row: where they lie, and which of them sees most around a token.

Shape letters: T tokens of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bertjax import hosts


class Window(NamedTuple):
    """A run of a text's tokens."""

    first: int
    size: int


def windows_over(length: int, room: int, stride: int) -> list[Window]:
    """Returns windows of at most `room` tokens that begin `stride` tokens apart, until the last token is in one.

    A stride beyond `room` would leave out tokens, so it is cut to that. No tokens make one empty window.
    """
    windows = [Window(0, min(length, room))]
    while windows[-1].first + windows[-1].size < length:
        first = windows[-1].first + min(stride, room)
        windows.append(Window(first, min(length - first, room)))
    return windows


def widest_view(windows: Sequence[Window], length: int) -> np.ndarray:
    """Returns for each token the number of the window that speaks for it, int [T]: each token has one.

    It is the window with the most tokens on the token's poorer side; of equal ones the longest, then the first.
    Source: google-research/bert, run_squad.py, _check_is_max_context.
    """
    scores = np.full((len(windows), length), -1.0)
    for row_T, (first, size) in zip(scores, windows, strict=True):
        before = np.arange(size)
        row_T[first : first + size] = np.minimum(before, size - 1 - before) + 0.01 * size
    return scores.argmax(axis=0) if length else np.zeros(0, np.int64)


def say_apart(name: str, texts: str, windows: Iterable[Sequence[Window]], stride: int) -> None:
    """Prints how many texts of a file have windows that do not overlap, and a stride with which they would."""
    sizes = [over[0].size for over in windows if len(over) > 1 and over[1].first >= over[0].size]
    if sizes:
        overlap = f"use --data.stride={max(1, min(sizes) // 2)}"
        hosts.say(f"{name}: {len(sizes)} {texts} with windows that do not overlap, as data.stride={stride}; {overlap}")

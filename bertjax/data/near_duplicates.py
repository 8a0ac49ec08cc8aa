"""Texts that repeat each other, found without comparing every pair."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

SHINGLE = 5  # words
# Texts that share a part s of their shingles meet with probability 1 - (1 - s**ROWS)**BANDS: 0.64 at half, 0.99 at 0.7.
BANDS, ROWS = 16, 4
_WORD = re.compile(r"\w+")


def groups(texts: Sequence[str]) -> list[int]:
    """Returns for each text the index of the first one of its group; near-duplicates of a near-duplicate are in it too.

    Source: Broder 1997, On the resemblance and containment of documents (shingles, min-wise hashing); the bands of
    Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
    """
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    signatures = _signatures(texts) if texts else np.zeros((0, BANDS, ROWS), np.uint64)
    for band in range(BANDS):
        first: dict[bytes, int] = {}
        for i, rows in enumerate(signatures[:, band]):
            a, b = root(i), root(first.setdefault(rows.tobytes(), i))
            parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(texts))]


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """Returns the least hash of each text's shingles, [len(texts), BANDS, ROWS], one hash function an entry."""
    shingles, starts = _shingles(texts)
    draw = np.random.default_rng(0)
    offsets, factors = draw.integers(0, 2**63, (2, BANDS * ROWS), np.uint64)
    columns = [
        np.minimum.reduceat((shingles ^ offset) * (factor | np.uint64(1)), starts)
        for offset, factor in zip(offsets, factors, strict=True)
    ]
    return np.stack(columns, axis=1).reshape(-1, BANDS, ROWS)


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hash of the words that start at each word, of all texts in a row, and where each text starts.

    A text is followed by empty words, so a text of n words has n shingles (one if it has none) and none crosses over.
    """
    ids: dict[str, int] = {}
    padding = [0] * (SHINGLE - 1)
    rows = [[ids.setdefault(word, len(ids) + 1) for word in _WORD.findall(text.lower())] or [0] for text in texts]
    lengths = np.array([len(row) for row in rows])
    words = np.array([word for row in rows for word in row + padding], np.uint64)
    inside = np.concatenate([np.arange(length) for length in lengths])
    at = np.repeat(np.cumsum(lengths + len(padding)) - lengths - len(padding), lengths) + inside
    factors = np.random.default_rng(1).integers(0, 2**63, SHINGLE, np.uint64) | np.uint64(1)
    hashes = sum((_mix(words)[at + j] * factors[j] for j in range(SHINGLE)), np.uint64(0))
    return _mix(np.asarray(hashes)), np.cumsum(lengths) - lengths


def _mix(x: np.ndarray) -> np.ndarray:
    """Returns 64 bits that each depend on all 64 of x (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

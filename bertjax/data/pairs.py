"""Pairs of segments for masked-LM and next-sentence prediction, from documents whose sentences are ids."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

IS_NEXT, IS_RANDOM = 0, 1


class Pair(NamedTuple):
    """One input of the model: [CLS] first [SEP] second [SEP], or [CLS] text [SEP] without next-sentence prediction."""

    ids: np.ndarray
    first_length: int
    """Positions of [CLS], the first segment and its [SEP]."""
    second_length: int
    """Positions of the second segment and its [SEP]; 0 without next-sentence prediction."""
    label: int
    """0: the second segment follows the first; 1: it comes from another document."""
    one_sentence: bool = False
    """The chunk had a single sentence, so that its second segment had to be random."""


class _Document(NamedTuple):
    """The sentences in one array: sentence i is ids[starts[i] : starts[i + 1]]."""

    ids: np.ndarray
    starts: list[int]

    @property
    def sentences(self) -> int:
        return len(self.starts) - 1

    def end_after(self, first: int, length: int) -> int:
        """Returns the sentence before which the sentences from `first` on have at least `length` tokens, or the end."""
        return min(bisect.bisect_left(self.starts, self.starts[first] + length, lo=first + 1), self.sentences)

    def between(self, first: int, end: int) -> np.ndarray:
        """Returns the tokens of the sentences from `first` to before `end`."""
        return self.ids[self.starts[first] : self.starts[end]]


def pairs_from_documents(
    documents: list[list[np.ndarray]],
    rng: np.random.Generator,
    *,
    seq_len: int,
    cls_id: int,
    sep_id: int,
    next_sentence: bool = True,
    short_share: float = 0.1,
) -> Iterator[Pair]:
    """Yields the pairs of the documents in their order; a document is a list of sentences of at least one token.

    With `next_sentence`, chunks of whole sentences up to a length, which for `short_share` of the documents is drawn
    between 2 and the longest, are cut in two; for half of them, and for those of one sentence, the second segment is
    replaced by sentences of another document, and the replaced ones are used again. Without it, whole sentences of a
    document up to `seq_len`.

    Raises: ValueError if there is no other document.
    Source: google-research/bert, create_pretraining_data.py.
    Differs from: it, in that a random segment never comes from the same document (there: rarely).
    """
    flat = [_flat_document(document) for document in documents if document]
    if not next_sentence:
        for document in flat:
            for text in _full_sentences(document, seq_len - 2):
                yield Pair(_join([cls_id], text, [sep_id]), len(text) + 2, 0, IS_NEXT)
        return
    if len(flat) < 2:
        raise ValueError(f"{len(flat)} documents have no other document to take a random segment from")
    most = seq_len - 3  # [CLS] and two [SEP]
    for index in range(len(flat)):
        for first, second, label, one_sentence in _segments(flat, index, rng, most, short_share):
            first, second = _truncate(first, second, most, rng)
            ids = _join([cls_id], first, [sep_id], second, [sep_id])
            yield Pair(ids, len(first) + 2, len(second) + 1, label, one_sentence)


def _flat_document(sentences: list[np.ndarray]) -> _Document:
    return _Document(np.concatenate(sentences), [0, *itertools.accumulate(map(len, sentences))])


def _join(*parts: np.ndarray | list[int]) -> np.ndarray:
    dtype = next(part.dtype for part in parts if isinstance(part, np.ndarray))
    return np.concatenate([np.asarray(part, dtype) for part in parts])


def _segments(
    documents: list[_Document], index: int, rng: np.random.Generator, most: int, short_share: float
) -> Iterator[tuple[np.ndarray, np.ndarray, int, bool]]:
    """Yields (first, second, label, whether the chunk had one sentence) of one document, not yet truncated."""
    document = documents[index]
    # Drawn once a document: short inputs make pretraining look more like fine-tuning.
    target = int(rng.integers(2, most + 1)) if rng.random() < short_share else most
    start = 0
    while start < document.sentences:
        end = document.end_after(start, target)
        one_sentence = end - start == 1
        middle = start + (1 if one_sentence else int(rng.integers(1, end - start)))
        first = document.between(start, middle)
        if one_sentence or rng.random() < 0.5:
            yield first, _random_segment(documents, index, rng, target - len(first)), IS_RANDOM, one_sentence
            start = middle  # what the random segment replaced is used again
        else:
            yield first, document.between(middle, end), IS_NEXT, False
            start = end


def _random_segment(documents: list[_Document], index: int, rng: np.random.Generator, length: int) -> np.ndarray:
    """Returns sentences of a document other than `index`, until they have `length` tokens or it ends; at least one."""
    other = int(rng.integers(len(documents) - 1))
    document = documents[other + (other >= index)]
    start = int(rng.integers(document.sentences))
    return document.between(start, document.end_after(start, length))


def _truncate(
    first: np.ndarray, second: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the segments cut to `most` tokens: always a token of the longer one, from its front or back by a coin."""
    excess = len(first) + len(second) - most
    if excess <= 0:
        return first, second
    # Until they are equally long the longer one pays, then they take turns, the second one first.
    alone = min(excess, abs(len(first) - len(second)))
    cut_first, cut_second = (excess - alone) // 2, (excess - alone + 1) // 2
    if len(first) > len(second):
        cut_first += alone
    else:
        cut_second += alone
    return _cut(first, cut_first, rng), _cut(second, cut_second, rng)


def _cut(segment: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    front = int(rng.binomial(count, 0.5))  # as many tosses as tokens
    return segment[front : len(segment) - (count - front)]


def _full_sentences(document: _Document, most: int) -> Iterator[np.ndarray]:
    """Yields all tokens in order, as many whole sentences at a time as fit; a longer sentence is cut into pieces."""
    starts = sorted({*document.starts, *_cuts(document, most)})
    pieces = _Document(document.ids, starts)
    start = 0
    while start < pieces.sentences:
        end = bisect.bisect_right(starts, starts[start] + most) - 1
        yield pieces.between(start, end)
        start = end


def _cuts(document: _Document, most: int) -> Iterator[int]:
    """Yields where sentences that are longer than `most` are cut."""
    for start, end in itertools.pairwise(document.starts):
        yield from range(start + most, end, most)

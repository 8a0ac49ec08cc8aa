"""Answers for any number of texts, in constant memory."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bertjax.errors import UserError

T = TypeVar("T")
CHUNK = 256  # texts asked at a time: eight batches, so that each is filled with texts of about one length
REPORT_EVERY = 5.0  # seconds


def stream(
    ask: Callable[[list[T]], Iterable[Any]], texts: Iterable[T], *, chunk: int = CHUNK, progress: bool = False
) -> Iterator[tuple[T, Any]]:
    """Returns an iterator of each text and its answer, in their order, reading no more than `chunk` texts ahead.

    `ask` is a method of a model, such as `model.embed`, or a function that calls one with settings. With `progress`
    there is a line on stderr every few seconds, and one at the end.

    Raises: UserError, with the number of texts before it, where `ask` refuses one; the answers before it are out then.
    """
    if chunk < 1:
        raise UserError(f"chunk={chunk} is not positive; leave it out, it is {CHUNK}")
    if isinstance(texts, str):
        raise UserError("texts is a single string; give an iterable of strings")
    return _answers(ask, iter(texts), chunk, progress)


def _answers(
    ask: Callable[[list[T]], Iterable[Any]], texts: Iterator[T], chunk: int, progress: bool
) -> Iterator[tuple[T, Any]]:
    done, start = 0, time.monotonic()
    reported = start
    while asked := list(itertools.islice(texts, chunk)):
        try:
            answers: Iterable[Any] = list(ask(asked))
        except UserError:
            answers = _one_by_one(ask, asked, done)
        yield from zip(asked, answers, strict=True)
        done += len(asked)
        if progress and time.monotonic() - reported >= REPORT_EVERY:
            reported = time.monotonic()
            _report(done, reported - start)
    if progress:
        _report(done, time.monotonic() - start)


def _one_by_one(ask: Callable[[list[T]], Iterable[Any]], texts: list[T], done: int) -> Iterator[Any]:
    """Yields their answers, up to a text that is refused."""
    for number, text in enumerate(texts, done):
        try:
            yield from ask([text])
        except UserError as problem:
            if not number:
                raise
            raise UserError(f"after {number} texts, counted from 0 again: {problem}") from problem


def _report(done: int, seconds: float) -> None:
    print(f"{done:,} texts in {seconds:.0f} s, {done / max(seconds, 1e-9):.0f} a second", file=sys.stderr, flush=True)

"""Times several computations in turn, each in a process of its own, so that all see the same minutes of the machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bertjax import backend
from bertjax.data.workers import leave_with_parent


class Trial(NamedTuple):
    """A computation that stands ready, compiled, to be timed."""

    run: Callable[[int], float]
    """run(steps) returns the seconds from the start of the first to the end of the last."""
    facts: Callable[[], dict[str, Any]]
    """What else is known of it, asked at the end."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """How a trial is made, in its own process; what that raises is raised here."""

    make: Callable[..., Trial]
    """A function of a module, which that process imports."""
    arguments: tuple[Any, ...]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Set before the arguments are looked at, and before any backend starts."""


class Timing(NamedTuple):
    """What came of a contender."""

    seconds: list[float]
    """A step's, the mean of each turn."""
    facts: dict[str, Any]

    @property
    def median(self) -> float:
        """A step's seconds in the middle one of the turns."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """A step's seconds in the fastest turn."""
        return min(self.seconds)


def alternate(
    contenders: Mapping[str, Contender], *, rounds: int, turn_seconds: float, at_once: bool = False
) -> dict[str, Timing]:
    """Returns the timing of each: in every round each has a turn, of as many steps as take about `turn_seconds`.

    They are made one after the other, or `at_once`, which is sooner on many cores and disturbs what making measures.
    TPUs admit one process: there each has all of its turns before the next one is made.
    """
    together = [{name: one} for name, one in contenders.items()] if backend.has_tpus() else [contenders]
    timings: dict[str, Timing] = {}
    for some in together:
        timings |= _alternate(some, rounds, turn_seconds, at_once)
    return timings


def _alternate(
    contenders: Mapping[str, Contender], rounds: int, turn_seconds: float, at_once: bool
) -> dict[str, Timing]:
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(_process()) for name in contenders}
        makings = []
        for name, contender in contenders.items():
            makings.append(processes[name].submit(_make, contender))
            if not at_once:
                makings[-1].result()
        for making in makings:
            making.result()
        warm = {name: process.submit(_run, 1).result() for name, process in processes.items()}
        steps = {name: max(1, round(turn_seconds / seconds)) for name, seconds in warm.items()}
        turns: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, process in processes.items():
                turns[name].append(process.submit(_run, steps[name]).result() / steps[name])
        return {name: Timing(turns[name], process.submit(_facts).result()) for name, process in processes.items()}


def ratio(slower: Timing, faster: Timing) -> float:
    """Returns how many times faster the second is: the median over the rounds, in each of which the two were near."""
    return statistics.median(a / b for a, b in zip(slower.seconds, faster.seconds, strict=True))


def best(timings: Mapping[str, Timing], names: Sequence[str]) -> str:
    """Returns which of them has the fastest median step."""
    return min(names, key=lambda name: timings[name].median)


_ready: list[Trial] = []  # in a contender's process: its trial


def _process() -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), leave_with_parent)


def _make(contender: Contender) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU, which the others need, too
    os.environ.update(contender.environment)
    _ready.append(contender.make(*contender.arguments))
    _run(1)


def _run(steps: int) -> float:
    return _ready[0].run(steps)


def _facts() -> dict[str, Any]:
    return _ready[0].facts()

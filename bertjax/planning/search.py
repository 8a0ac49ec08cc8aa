"""Other settings of a plan: what makes one fit that does not, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bertjax.config import Config
from bertjax.errors import UserError
from bertjax.planning.hardware import GIB
from bertjax.planning.plan import Plan

MakePlan = Callable[[Config], Plan]

CLOSE = 1.1
"""The search for the largest batch ends when one that is so much larger does not fit."""

MOST_COMPILED = 6
"""Or after so many."""


class Remedy(NamedTuple):
    """A change of a config that does not fit."""

    change: str  # as the command line takes it
    needed: int  # bytes a chip, with it
    fits: bool


class LargestBatch(NamedTuple):
    """What the search for it came to, in rows over all chips."""

    fits: int | None
    too_large: int | None


def remedies(p: Plan, make_plan: MakePlan) -> list[Remedy]:
    """Returns what each change that saves memory comes to; a line says which is tried."""
    found = []
    for change, c in _changes(p):
        _say(f"too large; trying {change}")
        try:
            other = make_plan(c)
        except UserError:  # a batch that no longer divides
            continue
        found.append(Remedy(change, other.step.needed, other.fits))
    return found


def largest_batch(p: Plan, make_plan: MakePlan) -> LargestBatch:
    """Returns the largest batch that fits, to a tenth: memory grows about evenly with it, so that few are compiled."""
    rows = p.mesh["data"] * p.mesh["fsdp"] * p.config.train.microbatches  # no smaller step of the batch divides
    times = p.config.train.batch_size // rows
    seen = {times: p}
    while len(seen) < MOST_COMPILED and (candidate := _candidate(seen, p.topology.chip.memory)):
        _say(f"trying --train.batch_size={candidate * rows}")
        seen[candidate] = make_plan(_with_batch(p.config, candidate * rows))
        _say(f"  {seen[candidate].step.needed / GIB:.2f} GiB a chip: {'fits' if seen[candidate].fits else 'too large'}")
    fitting = [t * rows for t, one in seen.items() if one.fits]
    return LargestBatch(
        max(fitting, default=None), min((t * rows for t, one in seen.items() if not one.fits), default=None)
    )


def _candidate(seen: dict[int, Plan], available: float) -> int | None:
    """Returns which multiple to compile next; None if the answer is known."""
    fits = max((t for t, p in seen.items() if p.fits), default=0)
    too_large = min((t for t, p in seen.items() if not p.fits), default=None)
    if too_large is not None and too_large <= max(fits + 1, fits * CLOSE):
        return None
    if len(seen) == 1:
        (only,) = seen
        return only * 2 if fits else max(1, only // 2)
    (low, less), (high, more) = ((t, seen[t].step.needed) for t in sorted(seen)[-2:])
    slope = max(more - less, 1) / (high - low)
    guess = round(low + (available - less) / slope - 0.5)
    return max(fits + 1, min(guess, 4 * fits + 1 if too_large is None else too_large - 1))


def _changes(p: Plan) -> Iterator[tuple[str, Config]]:
    c, slices = p.config, p.topology.slices
    more: dict[str, tuple[Any, ...]] = {"none": ("products", "block"), "products": ("block",), "block": ()}
    for remat in more[c.model.remat]:
        yield f"--model.remat={remat}", dataclasses.replace(c, model=dataclasses.replace(c.model, remat=remat))
    parts = c.train.microbatches * 2
    train = dataclasses.replace(c.train, microbatches=parts)
    yield f"--train.microbatches={parts}", dataclasses.replace(c, train=train)
    ways = p.mesh["data"] * p.mesh["fsdp"] // slices
    if ways > p.mesh["fsdp"]:
        mesh = dataclasses.replace(c.mesh, data=slices, fsdp=ways)
        yield f"--mesh.data={slices} --mesh.fsdp={ways}", dataclasses.replace(c, mesh=mesh)
    if c.train.batch_size > 1:
        yield f"--train.batch_size={c.train.batch_size // 2}", _with_batch(c, c.train.batch_size // 2)


def _with_batch(c: Config, rows: int) -> Config:
    return dataclasses.replace(c, train=dataclasses.replace(c.train, batch_size=rows))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

"""What did the profiled steps of a run spend their time on? The time of each kind of XLA's operations, added up.

    python -m benchmarks.trace RUN

RUN is a workdir of train.py with --train.profile_from=a --train.profile_steps=n, or any folder with traces by
jax.profiler: the newest counts, of several hosts' the first. Prints a JSON line about the program that took the most
time, on the first GPU or TPU, or on all CPU devices together: how often it ran, if the trace tells, the seconds between
the first start and the last end of an operation, the share of them in which any was at work, and the seconds of each
kind of operation (of a GPU's command buffers: of kernel), without those of operations within it; what runs at the same
time counts twice there.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from jax.profiler import ProfileData

from benchmarks.result import print_result
from bertjax.errors import UserError, reported

MOST = 30
"""Kinds that are listed; what the others took is `others`."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Adds up what is in a trace."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run, or of the trace."""


class Operation(NamedTuple):
    """One that ran: times in nanoseconds."""

    name: str
    program: str
    run: Any
    """By which runs of the program are told apart, None where the trace does not tell."""
    start: float
    end: float
    alone: float
    """Of it, what no operation within it took."""


def operations(trace: ProfileData) -> list[Operation]:
    """Returns those of the first device that has any."""
    with warnings.catch_warnings():
        # Python 3.12 says so of a type of jaxlib's when it is first used.
        warnings.filterwarnings("ignore", "builtin type event_stats has no __module__", DeprecationWarning)
        for plane in sorted(trace.planes, key=lambda plane: plane.name):
            if found := [operation for line in plane.lines for operation in _of_line(line)]:
                return found
    return []


def _of_line(line: Any) -> Iterator[Operation]:
    """Yields the operations of a thread or stream: one lies within another or after it, or begins as that one ends."""
    found = []
    for event in line.events:
        facts = dict(event.stats)
        if "hlo_op" in facts or line.name == "XLA Ops":  # so a TPU's line is called
            module, run = str(facts.get("hlo_module", "")), facts.get("run_id")
            name = str(facts.get("hlo_op", event.name))
            if name.startswith("command_buffer"):  # a GPU's, in which only the kernels have names of their own
                name = event.name
            found.append((event.start_ns, -event.duration_ns, name, module, run))
    ends: list[tuple[float, int]] = []  # of the operations around, and where they are
    made: list[Operation] = []
    for start, less, name, module, run in sorted(found, key=lambda one: one[:2]):
        while ends and ends[-1][0] <= start:
            ends.pop()
        if ends:
            until, place = ends[-1]
            made[place] = made[place]._replace(alone=made[place].alone - (min(start - less, until) - start))
        ends.append((start - less, len(made)))
        made.append(Operation(name, module, run, start, start - less, -less))
    yield from made


def kind(name: str) -> str:
    """Returns an operation's name without its number."""
    return re.sub(r"([._]\d+|\.clone|\.remat\d*)+$", "", name.split(" = ")[0].lstrip("%"))


def busy(found: Iterable[Operation]) -> float:
    """Returns the time in which any of them was at work."""
    total, until = 0.0, float("-inf")
    for one in sorted(found, key=lambda one: one.start):
        total += max(0.0, one.end - max(one.start, until))
        until = max(until, one.end)
    return total


def _sums(parts: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Returns the sum of each name's parts, the largest first."""
    sums: dict[str, float] = {}
    for name, part in parts:
        sums[name] = sums.get(name, 0.0) + part
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def account(folder: Path) -> dict[str, Any]:
    """Returns the figures. Raises: UserError unless there is a trace, with operations in it."""
    by_host: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob("*.xplane.pb")):
        by_host.setdefault(file.parent, []).append(file)
    if not by_host:
        raise UserError(f"{folder} has no trace (*.xplane.pb); name a run with --train.profile_from")
    file, *_ = by_host[max(by_host)]  # the folders are named by the time
    found = operations(ProfileData.from_file(str(file)))
    if not found:
        raise UserError(f"{file} has no operation of XLA; profile steps that ran")
    of_programs = _sums((one.program, one.alone) for one in found)
    program = next(iter(of_programs))
    found = [one for one in found if one.program == program]
    kinds = _sums((kind(one.name), one.alone / 1e9) for one in found)
    span = max(one.end for one in found) - min(one.start for one in found)
    listed = dict(itertools.islice(kinds.items(), MOST))
    return {
        "program": program or None,
        "runs": len({one.run for one in found} - {None}) or None,
        "seconds": span / 1e9,
        "busy": busy(found) / span if span else 1.0,
        "operations": listed,
        "others": sum(kinds.values()) - sum(listed.values()),
    }


def main() -> None:
    """The command."""
    arguments = tyro.cli(Arguments, description=__doc__)
    with reported():
        print_result("trace", account(Path(arguments.run)), "jax")


if __name__ == "__main__":
    main()

"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bertjax.planning.hardware import GIB
from bertjax.planning.plan import Bounds, Plan, figures
from bertjax.planning.search import LargestBatch, Remedy

MEMORY = {
    "arguments": "weights, optimizer, batch",
    "temporaries": "activations, gradients",
    "outputs": "new state, figures",
    "aliased": "of which in the old state's place",
    "needed": "together",
    "available": "a chip has",
}
LIMITS = {
    "compute": "products, at the chip's peak",
    "memory": "its memory, all read and written once",
    "links": "links within a slice",
    "network": "data-centre network between slices",
}


def lines(p: Plan, remedies: Sequence[Remedy] = (), largest: LargestBatch | None = None) -> Iterator[str]:
    """Yields the lines of the page."""
    found = figures(p)
    slices = f"{p.topology.slices} x " if p.topology.slices > 1 and p.topology.compiled else ""
    yield f"{slices}{p.topology.name}, {p.topology.chips} chips, mesh {p.mesh}"
    yield (
        f"{p.steps:,} steps of {found['rows_per_step']} rows of {found['seq_len']}, {found['rows_per_chip']:g} a chip;"
        f" microbatches {found['microbatches']}; remat {found['remat']}; vocabulary {found['vocabulary']}"
    )
    yield "nothing here was measured on these chips; " + (
        "computed by formulas, not compiled"
        if p.step.compile_seconds is None
        else f"compiled in {p.step.compile_seconds:.0f} s"
    )
    yield ""
    yield "memory of a chip"
    for name, what in MEMORY.items():
        if name in found["memory"]:
            yield f"  {what:<36}{found['memory'][name] / GIB:>9.2f} GiB"
    if p.fits:
        yield from _what_it_takes(p, found)
    else:
        yield ""
        yield "it does not fit; what a chip needs with one change"
    for remedy in remedies:
        yield f"  {remedy.change:<36}{remedy.needed / GIB:>9.2f} GiB  {'fits' if remedy.fits else 'too large'}"
    if largest is not None:
        yield ""
        yield f"the largest batch that fits: {_rows(largest.fits)} rows; too large: {_rows(largest.too_large)}"


def as_json(p: Plan, remedies: Sequence[Remedy] = (), largest: LargestBatch | None = None) -> dict[str, Any]:
    """Returns the plan, and what was searched for, as JSON has it."""
    found = figures(p)
    if not p.fits:
        found["remedies"] = [remedy._asdict() for remedy in remedies]
    return found if largest is None else found | {"largest_batch": largest._asdict()}


def _what_it_takes(p: Plan, found: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield "sent by a chip in a step"
    for one in p.step.collectives:
        axes = ", ".join(one.axes)
        yield (
            f"  {one.kind} over {axes} ({one.group} chips, {one.count} times)".ljust(50)
            + f"{one.within / 1e6:>10.2f} MB in its slice{one.between / 1e6:>10.2f} MB to others"
        )
    if not p.step.collectives:
        yield "  nothing"
    yield ""
    yield "a step takes at least the longest of these, at most twice their sum"
    bounds = Bounds(**found["bounds"])
    for name, what in LIMITS.items():
        yield f"  {what:<41}{getattr(bounds, name) * 1e3:>9.2f} ms"
    (best, worst), mfu, days, hours = (found[k] for k in ("seconds_per_step", "mfu", "days", "chip_hours"))
    yield f"  {'a step':<41}{best * 1e3:>9.2f} to {worst * 1e3:.2f} ms"
    yield f"  {'MFU, of ' + format(found['flops_per_step'], '.3g') + ' FLOP a step':<41}{mfu[1]:>9.1%} to {mfu[0]:.1%}"
    yield (
        f"  {format(found['steps'], ',') + ' steps':<41}{days[0]:>9.3g} to {days[1]:.3g} days,"
        f" {hours[0]:,.0f} to {hours[1]:,.0f} chip-hours"
    )


def _rows(number: int | None) -> str:
    return "none that was tried" if number is None else str(number)

"""What a compiled program sends between devices, read from its HLO text."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bertjax.planning.hlo import Computations, Operation, array_bytes, read_program, trips

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_CALLED = re.compile(r"(?:calls|body|to_apply|branch_computations)=(\{[^}]*\}|%?[\w.-]+)")
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """What is sent in one way among groups of one kind, all of a step's together."""

    kind: str
    axes: tuple[str, ...]  # of the mesh, along which a group lies
    group: int  # devices in it
    slices: int  # that it spans
    count: int  # times a step
    size: int  # bytes of all that a group has in common, once

    @property
    def within(self) -> float:
        """Bytes that leave a device for others of its slice: in rings, and no way sends less."""
        return self._sent(self.group // self.slices, self.size)

    @property
    def between(self) -> float:
        """Bytes that leave it for other slices, which each of its slice's devices does for its part."""
        return self._sent(self.slices, self.size / (self.group // self.slices))

    def _sent(self, ring: int, size: float) -> float:
        passes = 2 if self.kind == "all-reduce" else 1
        alone = self.kind == "collective-permute" and ring > 1
        return size if alone else passes * size * (ring - 1) / ring


def read_collectives(hlo: str, mesh_shape: Mapping[str, int], slices: Sequence[int] | None = None) -> list[Collective]:
    """Returns the collectives of a step, those in a loop as often as it runs.

    `mesh_shape` has the axes in their order; `slices` the slice of the device at each place of the mesh.
    """
    entry, computations = read_program(hlo)
    found: dict[tuple[str, tuple[str, ...], int, int], list[tuple[int, int]]] = collections.defaultdict(list)
    for times, kind, operation in _walk(entry, 1, computations):
        if operation.name == "send":
            members = _firsts_of_slices(operation.rest, slices or [])
        else:
            members = _members(operation.rest, math.prod(mesh_shape.values()))
        if len(members) > 1:
            spanned = len({slices[place] for place in members}) if slices else 1
            key = (kind, _axes(members, mesh_shape), len(members), spanned)
            found[key].append((times, _size(operation, len(members))))
    return [
        Collective(*key, count=sum(times for times, _ in sizes), size=sum(times * size for times, size in sizes))
        for key, sizes in sorted(found.items())
    ]


def _walk(computation: str, times: int, computations: Computations) -> Iterator[tuple[int, str, Operation]]:
    """Yields (how often it runs, its kind, itself) of all collectives that this computation comes to."""
    for operation in computations[computation]:
        kind = operation.name.removesuffix("-start")
        if between := _BETWEEN_SLICES.search(operation.rest) if operation.name == "send" else None:
            yield times, between[1].lower().replace("_", "-"), operation
        elif kind in KINDS:
            # A TPU's reduce-scatter is a kernel that XLA describes as an all-reduce of which each takes its part.
            yield times, "reduce-scatter" if computation.startswith("all-reduce-scatter") else kind, operation
        else:  # what a collective calls adds two numbers
            for called in _called(operation):
                inner = list(_walk(called, times, computations))
                runs = trips(operation, computations) if inner and operation.name == "while" else 1
                yield from ((runs * count, kind, one) for count, kind, one in inner)


def _called(operation: Operation) -> list[str]:
    """Returns the computations that it runs.

    A TPU's program repeats a collective in those that run while it is under way, and in the one that ends it.
    """
    called = re.findall(r"[\w.-]+", " ".join(_CALLED.findall(operation.rest)))
    ends = operation.result.startswith("async-collective-done")
    return [name for name in called if not ends and not name.startswith("async_collective_fusion")]


def _members(rest: str, devices: int) -> np.ndarray:
    """Returns the places in the mesh of a group's devices: of the first one, the others are like it."""
    if pair := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return np.array([int(pair[1]), int(pair[2])])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", rest):
        return _named_members(*named.groups())
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\S+)", rest):
        return _iota(iota[3].rstrip(",")).reshape(int(iota[1]), int(iota[2]))[0]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return np.array(_numbers(listed[1]))
    if "replica_groups={}" in rest:
        return np.arange(devices)
    raise ValueError(f"a collective whose groups are not understood: {rest[:300]}")


def _firsts_of_slices(rest: str, slices: Sequence[int]) -> np.ndarray:
    """Returns a place in each of the slices among which a send goes on: the first, for the others are alike.

    A TPU's program hands what crosses slices to its host, whose runtime does the collective. It names the slices from 1
    on, `"{1,2}x{0:15}"`, or one chip of each, `{{100003,200003},...}`.
    """
    target = re.search(r'_xla_megascale_target="?\{\{?([\d,]+)\}', rest)
    if target is None:
        raise ValueError(f"a transfer between slices that is not understood: {rest[:300]}")
    chips = 100_000
    named = [number // chips if number >= chips else number for number in _numbers(target[1])]
    order = sorted(set(slices))
    return np.array([list(slices).index(order[number - 1]) for number in named])


def _named_members(mesh: str, order: str | None, axes: str) -> np.ndarray:
    """Returns the places that differ along axes as XLA names them, `'a'` or, a factor of one, `'a':(before)ways`."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    places = np.arange(math.prod(sizes.values())) if order is None else _iota(order)
    numbers, members = np.arange(len(places)).reshape(tuple(sizes.values())), np.zeros(1, int)
    for name, before, ways in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
        size, along = sizes[name], list(sizes).index(name)
        taken, cut = int(ways or size), int(before or 1)
        stride = numbers.strides[along] // numbers.itemsize * (size // (cut * taken))
        members = (members[:, None] + np.arange(taken)[None, :] * stride).ravel()
    return places[members]


def _iota(order: str) -> np.ndarray:
    """Returns the places in the order of `[2,4]T(1,0)`: counted row by row in that shape, its axes then exchanged."""
    shape, _, axes = order.partition("T")
    places = np.arange(math.prod(_numbers(shape.strip("[]")))).reshape(_numbers(shape.strip("[]")))
    return places.transpose(_numbers(axes.strip("()")) if axes else None).ravel()


def _axes(members: np.ndarray, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which these places differ."""
    coordinates = np.unravel_index(members, tuple(mesh_shape.values()))
    return tuple(name for name, along in zip(mesh_shape, coordinates, strict=True) if len(set(along.tolist())) > 1)


def _size(operation: Operation, group: int) -> int:
    """Returns the bytes of what a group has in common, once: the whole of what is added up, gathered or exchanged."""
    of_arrays = array_bytes(operation.type)
    if operation.name == "all-gather-start":
        return sum(of_arrays) * group // (group + 1)  # the type has what goes in beside what comes out
    if operation.name == "send":
        return of_arrays[0] * group if '"ALL_GATHER"' in operation.rest else of_arrays[0]
    if operation.name == "collective-permute-start":
        return of_arrays[0]
    return sum(of_arrays) * group if operation.name.startswith("reduce-scatter") else sum(of_arrays)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]

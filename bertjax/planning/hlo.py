"""The text of a program that XLA compiled: its computations, their operations, and the bytes of their results."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) \(.*\{$")
_OPERATION = re.compile(
    r"\s+(?P<root>ROOT )?%?(?P<result>[\w.-]+) = (?P<type>\(.*?\)|\S+) (?P<name>[\w-]+)\((?P<rest>.*)"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")


class Operation(NamedTuple):
    """A line: `%result = type name(operands), more`, of which `rest` begins with the operands."""

    result: str
    type: str
    name: str
    rest: str
    root: bool = False
    """Whether its result is that of its computation."""

    @property
    def operands(self) -> list[str]:
        """The results that it takes."""
        return re.findall(r"%([\w.-]+)", self.rest.partition(")")[0])


Computations = Mapping[str, list[Operation]]


def read_program(hlo: str) -> tuple[str, Computations]:
    """Returns the name of the computation that is run, and the operations of each."""
    entry, operations = "", list[Operation]()
    computations: dict[str, list[Operation]] = {}
    for line in hlo.splitlines():
        if begins := _COMPUTATION.match(line):
            operations = computations.setdefault(begins["name"], [])
            entry = begins["name"] if begins["entry"] else entry
        elif found := _OPERATION.match(line):
            result, type_, name, rest = found["result"], found["type"], found["name"], found["rest"]
            operations.append(Operation(result, type_, name, rest, root=found["root"] is not None))
    return entry, computations


def trips(loop: Operation, computations: Computations) -> int:
    """Returns how often a loop runs, which counts from 0 up to a constant."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.-]+)", loop.rest)
    constants = [op for op in computations[condition[1]] if op.name == "constant"] if condition else []
    if len(constants) != 1:
        raise ValueError(f"a loop whose number of trips is not told: {loop.rest[-200:]}")
    return int(constants[0].rest.partition(")")[0])


def shapes(type_: str) -> list[tuple[int, ...]]:
    """Returns those of the arrays in a type."""
    return [tuple(int(number) for number in found[3].split(",") if number) for found in _ARRAY.finditer(type_)]


def array_bytes(type_: str) -> list[int]:
    """Returns the bytes of the arrays in a type."""
    bits = (8 if found[1] == "pred" else int(found[2]) for found in _ARRAY.finditer(type_))
    return [math.prod(shape) * each // 8 for shape, each in zip(shapes(type_), bits, strict=True)]

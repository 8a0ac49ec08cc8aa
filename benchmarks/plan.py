"""What every config needs on pods of TPUs, compiled for them on this machine, which needs none (extra `plan`).

    python -m benchmarks.plan [--only large --chips 1 16 256]

Every config under configs/ on 1, 16 and 256 chips of v5e, the batch growing with the pod. Then BERT-large at 512
positions, 4 rows a chip in one microbatch, on 256 chips by what is kept for the backward pass, by the compiler's plain
way, every block by itself and the weights on every chip, and on 1,024. Prints a table to stderr, a JSON line for each.
Times to compile say something only of runs with nothing beside them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result import print_result
from bertjax import command_line
from bertjax.config import Config
from bertjax.errors import UserError, reported
from bertjax.planning import hardware
from bertjax.planning.plan import figures, make_plan

ROWS = 16
"""A chip, of the configs as they are."""

V5E = {1: "v5e:1x1", 16: "v5e:4x4", 256: "v5e:16x16"}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Plans configs for pods."""

    only: str = ""
    """Cases whose name has this."""
    chips: tuple[int, ...] = (1, 16, 256)
    """Chips that every config is planned for."""


def with_fields(c: Config, rows: int, **groups: dict[str, Any]) -> Config:
    """Returns the config with a batch of `rows` and these fields of its groups."""
    groups["train"] = {"batch_size": rows} | groups.get("train", {})
    return dataclasses.replace(
        c, **{group: dataclasses.replace(getattr(c, group), **fields) for group, fields in groups.items()}
    )


def cases(chips: tuple[int, ...]) -> Iterator[tuple[str, Config, str, int]]:
    """Yields (name, config, topology, slices)."""
    for path in sorted(Path("configs").glob("*.py")):
        for number in chips:
            _, c = command_line.config_file(Config, [f"--config={path}"])
            yield f"{path.stem} on {number}", with_fields(c, ROWS * number), V5E[number], 1
    _, large = command_line.config_file(Config, ["--config=configs/bert_large.py"])
    longer = {"seq_len": 512, "max_predictions": 77}
    for name, model, fsdp in (
        ("remat none", {"remat": "none"}, 32),
        ("remat none, unrolled", {"remat": "none", "unroll_layers": True}, 32),
        ("remat products", {"remat": "products"}, 32),
        ("remat block", {"remat": "block"}, 32),
        ("remat block, weights on every chip", {"remat": "block"}, 1),
    ):
        c = with_fields(large, 4 * 256, data=longer, model=model, mesh={"fsdp": fsdp})
        yield f"large 512, {name}, on 256", c, "v5e:16x16", 1
    for topology, slices in (("v5e:4x4", 1), ("v5p:8x8x16", 1), ("v5e:16x16", 4)):
        number = hardware.find_topology(topology, slices).chips
        fsdp = min(32, number)
        c = with_fields(large, 4 * number, data=longer, model={"remat": "block"}, mesh={"fsdp": fsdp})
        yield f"large 512, remat block, on {slices} x {topology}", c, topology, slices


def main() -> None:
    """The command."""
    a = tyro.cli(Arguments, description=__doc__)
    with reported():
        for name, c, where, slices in cases(a.chips):
            if a.only in name:
                topology = hardware.find_topology(where, slices)
                plan_case(name, c, topology)


def plan_case(name: str, c: Config, topology: hardware.Topology) -> None:
    """Plans one, and prints it."""
    try:
        found = figures(make_plan(c, topology, hardware.devices(topology)))
    except UserError as error:  # a width that does not divide over so many chips
        print(f"{name:<50} {error}", file=sys.stderr, flush=True)
        return
    memory, sent = found["memory"], found.get("collectives", [])
    print(
        f"{name:<50}{found['compile_seconds']:>6.0f} s"
        f"{memory.get('temporaries', 0) / 1e9:>8.2f} GB temporaries{memory['needed'] / 1e9:>8.2f} GB of"
        f" {memory['available'] / 1e9:.1f}"
        f"{sum(one['within'] for one in sent) / 1e6:>9.1f} MB in its slice"
        f"{sum(one['between'] for one in sent) / 1e6:>7.1f} MB to others",
        file=sys.stderr,
        flush=True,
    )
    print_result("plan", {"case": name} | found, "jax", "jaxlib", "libtpu")


if __name__ == "__main__":
    main()

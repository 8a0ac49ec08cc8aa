"""What every config needs on pods of TPUs, compiled for them on this machine, which needs none (extra `plan`).

    python -m benchmarks.plan [--only large --chips 1 16 256]

Every config under configs/ on 1, 16 and 256 chips of v5e, the batch growing with the pod. Then BERT-large at 512
positions, 4 rows a chip in one microbatch, on 256 chips by what is kept for the backward pass, by the compiler's plain
way, every block by itself and the weights on every chip, and without dropout of attention's weights, by XLA and by
splash, on packed rows, too; and on 1,024 chips. Prints a table to stderr, a JSON line for each.
Times to compile say something only of runs with nothing beside them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


class Case(NamedTuple):
    """What is planned."""

    name: str
    config: Config
    topology: str
    slices: int = 1
    pairs_per_row: int = 1


def cases(chips: tuple[int, ...]) -> Iterator[Case]:
    """Yields all that there are."""
    for path in sorted(Path("configs").glob("*.py")):
        for number in chips:
            _, c = command_line.config_file(Config, [f"--config={path}"])
            yield Case(f"{path.stem} on {number}", with_fields(c, ROWS * number), V5E[number])
    _, large = command_line.config_file(Config, ["--config=configs/bert_large.py"])
    longer = {"seq_len": 512, "max_predictions": 77}
    for name, model, fsdp, pairs in (
        ("remat none", {"remat": "none"}, 32, 1),
        ("remat none, unrolled", {"remat": "none", "unroll_layers": True}, 32, 1),
        ("remat products", {"remat": "products"}, 32, 1),
        ("remat block", {"remat": "block"}, 32, 1),
        ("remat block, weights on every chip", {"remat": "block"}, 1, 1),
        ("all weights of attention kept, xla", {"attention_dropout": 0.0, "attention": "xla"}, 32, 1),
        ("all weights of attention kept, splash", {"attention_dropout": 0.0, "attention": "splash"}, 32, 1),
        ("packed, splash", {"attention_dropout": 0.0, "attention": "splash"}, 32, 8),
        ("packed, splash, weights on every chip", {"attention_dropout": 0.0, "attention": "splash"}, 1, 8),
    ):
        c = with_fields(large, 4 * 256, data=longer, model=model, mesh={"fsdp": fsdp})
        yield Case(f"large 512, {name}, on 256", c, "v5e:16x16", pairs_per_row=pairs)
    for topology, slices in (("v5e:4x4", 1), ("v5p:8x8x16", 1), ("v5e:16x16", 4)):
        number = hardware.find_topology(topology, slices).chips
        fsdp = min(32, number)
        c = with_fields(large, 4 * number, data=longer, model={"remat": "block"}, mesh={"fsdp": fsdp})
        yield Case(f"large 512, remat block, on {slices} x {topology}", c, topology, slices)


def main() -> None:
    """The command."""
    a = tyro.cli(Arguments, description=__doc__)
    with reported():
        for case in cases(a.chips):
            if a.only in case.name:
                plan_case(case)


def plan_case(case: Case) -> None:
    """Plans one, and prints it."""
    topology = hardware.find_topology(case.topology, case.slices)
    try:
        found = figures(make_plan(case.config, topology, hardware.devices(topology), pairs_per_row=case.pairs_per_row))
    except UserError as error:  # a width that does not divide over so many chips
        print(f"{case.name:<56} {error}", file=sys.stderr, flush=True)
        return
    memory, sent = found["memory"], found.get("collectives", [])
    print(
        f"{case.name:<56}{found['compile_seconds']:>6.0f} s"
        f"{memory.get('temporaries', 0) / 1e9:>8.2f} GB temporaries{memory['needed'] / 1e9:>8.2f} GB of"
        f" {memory['available'] / 1e9:.1f}"
        f"{sum(one['within'] for one in sent) / 1e6:>9.1f} MB in its slice"
        f"{sum(one['between'] for one in sent) / 1e6:>7.1f} MB to others",
        file=sys.stderr,
        flush=True,
    )
    print_result("plan", {"case": case.name} | found, "jax", "jaxlib", "libtpu")


if __name__ == "__main__":
    main()

"""What does it cost that a run can be killed at any moment and goes on as if nothing had happened?

    python -m benchmarks.resuming --config=configs/bert_mini.py --data=CORPUS [--steps=200 --save_every=50]
        [--group.field=value ...]

Starts the command of train.py, with what other flags there are, several times on the same config: with one checkpoint
at its end, with one every `save_every` steps, and so that it is killed halfway between two of them and started again.
Prints a JSON line with the seconds of each from the command to its end, the fastest of `rounds`; what a checkpoint
costs, and what the kill: the second start, its restoring, and the steps that were not saved. A run before these, which
is not counted, leaves the compiled programs in the cache, as a second start has them. The runs' metrics must be the
same, or it fails.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.result import print_result
from bertjax.errors import UserError, reported
from bertjax.training.metrics import TIMING, read_metrics


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures what checkpoints and a kill cost."""

    config: str
    """Python file whose get_config() makes the run."""
    data: str | None = None
    """A directory that `bertjax prepare` wrote, if the config does not name one."""
    steps: int = 200
    """Of the run."""
    save_every: int = 50
    """Steps between checkpoints."""
    rounds: int = 2
    """Times that each is measured."""


def command(a: Arguments, flags_of_train: Sequence[str], workdir: Path, save_every: int) -> list[str]:
    """Returns the command of a run; it evaluates at its end only."""
    flags = {
        "--config": a.config,
        "--workdir": workdir,
        "--train.steps": a.steps,
        "--train.eval_every": a.steps,
        "--optimizer.warmup_steps": a.steps // 10,
        "--checkpoint.save_every": save_every,
    }
    if a.data is not None:
        flags["--data.path"] = a.data
    return [sys.executable, "train.py", *(f"{name}={value}" for name, value in flags.items()), *flags_of_train]


def run(
    a: Arguments, flags_of_train: Sequence[str], workdir: Path, save_every: int, *, killed_after: int | None = None
) -> float:
    """Returns the seconds of a run from its start to its end; with `killed_after` it is killed after that step.

    Raises: UserError, with what the run said, if it fails.
    """
    started = time.perf_counter()
    line = command(a, flags_of_train, workdir, save_every)
    if killed_after is not None:
        process = subprocess.Popen(line, stderr=subprocess.DEVNULL)
        while not done(workdir, killed_after):
            if process.poll() is not None:
                break  # of itself: the second start will say why
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise UserError(f"{' '.join(line)} ended with {ended.returncode}: {ended.stderr[-1000:]}")
    return time.perf_counter() - started


def done(workdir: Path, step: int) -> bool:
    """Returns whether the run has written that step."""
    path = workdir / "metrics.jsonl"
    return path.exists() and f'"step": {step},' in path.read_text(encoding="utf-8")


def untimed(workdir: Path) -> list[dict[str, Any]]:
    """Returns the metrics without what a clock decides."""
    return [{name: x for name, x in line.items() if name not in TIMING} for line in read_metrics(workdir)]


def measure(a: Arguments, flags_of_train: Sequence[str] = ()) -> dict[str, Any]:
    """Returns all figures."""
    halfway = a.steps // 2 // a.save_every * a.save_every + a.save_every // 2
    ways: dict[str, dict[str, Any]] = {
        "one_checkpoint": {"save_every": a.steps},
        "checkpoints": {"save_every": a.save_every},
        "killed": {"save_every": a.save_every, "killed_after": halfway},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as directory:
        first = Path(directory) / "first"
        run(a, flags_of_train, first, a.steps)
        for turn in range(a.rounds):
            for name, how in ways.items():
                workdir = Path(directory) / f"{name}{turn}"
                seconds[name].append(run(a, flags_of_train, workdir, **how))
                if untimed(workdir) != untimed(first):
                    raise UserError(f"the run with {name} is another: it has other metrics")
    plain, saved, killed = (min(seconds[name]) for name in ways)
    return {
        "config": a.config,
        "steps": a.steps,
        "save_every": a.save_every,
        "killed_after": halfway,
        "seconds": seconds,
        "seconds_a_checkpoint": (saved - plain) / (-(-a.steps // a.save_every) - 1),
        "share_of_checkpoints": saved / plain - 1,
        "seconds_a_kill": killed - saved,
    }


def main() -> None:
    """The command."""
    a, flags_of_train = tyro.cli(Arguments, description=__doc__, return_unknown_args=True)
    with reported():
        if not 0 < a.save_every <= a.steps // 2:
            raise UserError(f"--save_every={a.save_every}: use 1 to {a.steps // 2}, half of --steps")
        print_result("resuming", measure(a, flags_of_train), "jax", "orbax-checkpoint")


if __name__ == "__main__":
    main()

"""What is the pretraining worth when there are few labelled examples?

    python -m benchmarks.few_examples --init_from RUN [--examples_per_class 50 --seeds 0 1 2 ...]

Fine-tunes the quickstart's task (from which library is a sentence?) on a few examples of each class, for every
seed once from the pretrained encoder and once from random weights, all else equal. Prints one JSON line: accuracies on
the validation file as finetune.py reports them, beside the baselines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

import finetune
from benchmarks.result import print_result
from bertjax import backend
from bertjax.config import FinetuneConfig
from bertjax.errors import UserError, reported
from configs.finetune import quickstart

FIGURES = {"majority": "majority_accuracy", "bag_of_words": "bag_of_words_accuracy"}
"""The baselines' names here and in what `finetune.run` returns."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Fine-tunes on a few examples of each class, with the pretraining and without."""

    init_from: str
    """Workdir of the pretraining run."""
    workdir: str | None = None
    """Folder to keep the runs in; without it they are deleted."""
    examples_per_class: int = 50
    """Examples of each class to learn from; another draw for each seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A pair of runs for each."""
    epochs: int = 20
    """Times that every example is read."""


def make_config(a: Arguments) -> FinetuneConfig:
    """Returns the quickstart's fine-tuning on a few examples. Raises: UserError on a value that it refuses."""
    c = quickstart.get_config()
    try:
        data = dataclasses.replace(c.data, examples_per_class=a.examples_per_class)
        train = dataclasses.replace(c.train, epochs=a.epochs)
    except ValueError as error:
        raise UserError(str(error)) from error
    return dataclasses.replace(c, init_from=a.init_from, data=data, train=train)


def compare(c: FinetuneConfig, seeds: Sequence[int], workdir: Path) -> dict[str, Any]:
    """Returns the accuracies with the pretraining, without it and of the baselines, one for each seed, and their means.

    Raises: UserError if there is no seed.
    """
    if not seeds:
        raise UserError("there are no seeds; give at least one")
    found: dict[str, list[float]] = {name: [] for name in ("pretrained", "from_scratch", *FIGURES)}
    for seed in seeds:
        for name in ("pretrained", "from_scratch"):
            train = dataclasses.replace(c.train, seed=seed, from_scratch=name == "from_scratch")
            figures = finetune.run(dataclasses.replace(c, train=train), workdir / f"{name}-{seed}")
            found[name].append(figures["accuracy"])
        for name, figure in FIGURES.items():  # of the seed's examples, the same for both runs
            found[name].append(figures[figure])
    return {name: summary(accuracies) for name, accuracies in found.items()}


def summary(accuracies: list[float]) -> dict[str, Any]:
    """Returns them with their mean and their standard deviation as a sample, which one alone does not have."""
    deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {"accuracies": accuracies, "mean": statistics.mean(accuracies), "standard_deviation": deviation}


def main() -> None:
    """The command."""
    backend.start()
    a = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported(), contextlib.ExitStack() as stack:
        workdir = a.workdir or stack.enter_context(tempfile.TemporaryDirectory())
        result = dataclasses.asdict(a) | compare(make_config(a), a.seeds, Path(workdir))
    print_result("few_examples", result, "jax")


if __name__ == "__main__":
    main()

"""A sweep: a fine-tuning for each combination of settings, and what the seeds say of each.

The folder holds a run's folder for each, `sweep.json` with what is finished, `sweep.tsv`, the table of all runs, and
`sweep.txt`, what the seeds say. Only the best run keeps its checkpoints: a grid of them would fill a disk.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bertjax import hosts, runs, storage
from bertjax.config import FinetuneConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.tasks.task import Task
from bertjax.training.metrics import Diverged

Read = Callable[[FinetuneConfig, Tokenizer], Task]
FIXED = {"init_from", "data.train", "data.validation", "train.patience"}
"""Settings that a run may change when it goes on, but no sweep: its runs would differ in more than it says."""


class Settings(NamedTuple):
    """What the runs of a sweep differ in."""

    peak_lr: float
    batch_size: int
    epochs: int
    seed: int

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return f"lr{self.peak_lr:g}-batch{self.batch_size}-epochs{self.epochs}-seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to: the figures of its best checkpoint, none if its loss was not finite."""

    settings: Settings
    figures: Mapping[str, float]


def sweep(
    c: FinetuneConfig, workdir: str | Path, run: Callable[[FinetuneConfig, Path], Mapping[str, float]]
) -> list[Result]:
    """Returns the results of all runs in the folder; those of an earlier call are not repeated.

    Raises: UserError if the folder is on no disk or holds a sweep with other settings, and what `run` raises but for a
    loss that is not finite.
    """
    if not storage.is_on_disk(workdir):
        raise UserError(f"{workdir} is in an object store, but a sweep keeps its table on a disk; name a folder there")
    if jax.process_count() > 1:
        raise UserError(f"a sweep takes the devices of one process, and there are {jax.process_count()}; start one")
    workdir = Path(workdir)
    results = _opened(workdir, c)
    asked = [Settings(lr, batch, epochs, seed) for seed, epochs, batch, lr in itertools.product(*_values(c))]
    for number, settings in enumerate(asked, start=1):
        if settings in {result.settings for result in results}:
            continue
        hosts.say(f"run {number} of {len(asked)}: {settings.folder}")
        try:
            figures = dict(run(configured(c, settings), workdir / settings.folder))
        except Diverged as error:
            hosts.say(f"{settings.folder}: {error}")
            figures = {}
        results.append(Result(settings, figures))
        _keep(workdir, c, results)
        jax.clear_caches()  # no later run has these functions; their programs are kept, training/programs.py
    print(_keep(workdir, c, results))
    return results


def read_once(read: Read) -> Read:
    """Returns `read` for the runs of one sweep, which share the task; where the seed draws examples, those of one."""
    tasks: dict[int | None, Task] = {}

    def task_of(c: FinetuneConfig, tokenizer: Tokenizer) -> Task:
        drawn = c.data.examples is not None or c.data.examples_per_class is not None
        seed = c.train.seed if drawn else None
        if seed not in tasks:
            tasks.clear()  # the runs of the seed before are over
            tasks[seed] = read(c, tokenizer)
        return tasks[seed]

    return task_of


def _values(c: FinetuneConfig) -> tuple[tuple[Any, ...], ...]:
    """Returns the values of each setting, seeds first: a sweep cut short has seen all of the grid."""
    return c.sweep.seed, c.sweep.epochs, c.sweep.batch_size, c.sweep.peak_lr


def configured(c: FinetuneConfig, settings: Settings) -> FinetuneConfig:
    """Returns the config of one run."""
    train = settings._asdict()
    optimizer = dataclasses.replace(c.optimizer, peak_lr=train.pop("peak_lr"))
    return dataclasses.replace(c, optimizer=optimizer, train=dataclasses.replace(c.train, **train))


def _common(c: FinetuneConfig) -> FinetuneConfig:
    """Returns the config with the same settings for all runs."""
    return configured(c, Settings(0.1, 1, 1, 0))


def _opened(workdir: Path, c: FinetuneConfig) -> list[Result]:
    """Returns the finished runs of the folder."""
    path = workdir / "sweep.json"
    if not path.is_file():
        workdir.mkdir(parents=True, exist_ok=True)
        return []
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        changes = runs.changes(record["config"], _common(c), path)
        results = [Result(Settings(**one["settings"]), one["figures"]) for one in record["runs"]]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the record of a sweep ({error!r}); use a new workdir") from error
    refused = runs.not_free(changes, FinetuneConfig).keys() | FIXED & changes.keys()
    if refused:
        shown = "; ".join(f"{name} was {changes[name][0]!r}, now {changes[name][1]!r}" for name in sorted(refused))
        raise UserError(f"{workdir} holds a sweep with other settings: {shown}. Use another workdir, or the old values")
    return results


def _keep(workdir: Path, c: FinetuneConfig, results: Sequence[Result]) -> str:
    """Records what is finished, removes the checkpoints of all finished runs but the best, and returns the summary."""
    listed = [{"settings": r.settings._asdict(), "figures": r.figures} for r in results]
    runs.write_json(workdir / "sweep.json", {"config": dataclasses.asdict(_common(c)), "runs": listed})
    figures = sorted({name for result in results for name in result.figures})
    with (workdir / "sweep.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow([*Settings._fields, *figures])
        for result in sorted(results, key=_order):
            table.writerow([*result.settings, *(result.figures.get(name, "") for name in figures)])
    metric = runs.read_facts(workdir / results[-1].settings.folder)["metric"]  # of the run that has just ended
    text = summary(results, metric)
    (workdir / "sweep.txt").write_text(text + "\n", encoding="utf-8")
    kept = best(results, metric)
    for result in results:
        if result is not kept:
            shutil.rmtree(workdir / result.settings.folder / "checkpoints", ignore_errors=True)
    return text


def _order(result: Result) -> Settings:
    return result.settings


def best(results: Sequence[Result], metric: str) -> Result | None:
    """Returns the run with the highest figure, the first of equals; None if no loss was finite."""
    finite = [result for result in results if result.figures]
    return max(finite, key=lambda result: result.figures[metric]) if finite else None


def summary(results: Sequence[Result], metric: str) -> str:
    """Returns a table with a line for each combination, its seeds taken together, best median first.

    The best run is one that was chosen among many: the median says what to expect of another seed.
    """
    lines = [f"{'peak_lr':>8} {'batch':>6} {'epochs':>6} {'seeds':>6}  {'median':>8} {'lowest':>8} {'highest':>8}"]
    combined: dict[tuple[float, int, int], list[float]] = {}
    for r in sorted(results, key=_order):
        combined.setdefault(r.settings[:3], []).append(r.figures.get(metric, float("-inf")))
    for settings, values in sorted(combined.items(), key=lambda item: -statistics.median(item[1])):
        lr, batch, epochs = settings
        spread = " ".join(f"{value:>8.4f}" for value in (statistics.median(values), min(values), max(values)))
        lines.append(f"{lr:>8g} {batch:>6} {epochs:>6} {len(values):>6}  {spread}")
    failed = sum(not result.figures for result in results)
    if failed:
        lines.append(f"{failed} of {len(results)} runs ended with a loss that was not finite: -inf")
    chosen = best(results, metric)
    if chosen is not None:
        lines.append(f"best run: {metric} {chosen.figures[metric]:.4f}, {chosen.settings.folder}")
    return "\n".join(lines)

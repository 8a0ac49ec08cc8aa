from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax import report, runs
from bertjax.config import FinetuneConfig, SweepConfig, TaskDataConfig
from bertjax.errors import UserError
from bertjax.tasks.sweep import Result, Settings, configured, read_once, summary, sweep
from bertjax.training.metrics import Diverged

CONFIG = FinetuneConfig(
    init_from="somewhere",
    data=TaskDataConfig(train="a.tsv", validation="b.tsv"),
    sweep=SweepConfig(peak_lr=(5e-5, 2e-5), batch_size=(16,), epochs=(2, 3), seed=(0, 1)),
)
Run = Callable[[FinetuneConfig, Path], dict[str, float]]


def figure(c: FinetuneConfig) -> dict[str, float]:
    """A run is better with its epochs, and one seed with the lower rate is best of all."""
    lucky = 0.2 if c.train.seed == 1 and c.optimizer.peak_lr == 2e-5 else 0
    return {"accuracy": c.train.epochs / 10 + lucky + c.optimizer.peak_lr, "loss": 1.0}


@pytest.fixture(autouse=True)
def caches_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have compiled is still theirs."""
    monkeypatch.setattr("bertjax.tasks.sweep.jax.clear_caches", lambda: None)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def run(asked: list[str]) -> Run:
    def run(c: FinetuneConfig, workdir: Path) -> dict[str, float]:
        asked.append(workdir.name)
        (workdir / "checkpoints").mkdir(parents=True)
        facts = {"bertjax": "0", "config": {}, "facts": {"metric": "accuracy"}}
        (workdir / "config.json").write_text(json.dumps(facts))
        return figure(c)

    return run


def test_every_combination_is_run_and_the_seeds_come_last(tmp_path: Path, run: Run, asked: list[str]) -> None:
    results = sweep(CONFIG, tmp_path, run)
    assert asked[:4] == [f"lr{lr}-batch16-epochs{n}-seed0" for n in (2, 3) for lr in ("5e-05", "2e-05")]
    assert asked[4:] == [name.replace("seed0", "seed1") for name in asked[:4]]
    assert [result.settings.folder for result in results] == asked
    assert all(result.figures == figure(configured(CONFIG, result.settings)) for result in results)


def test_a_config_is_that_of_its_settings() -> None:
    c = configured(CONFIG, Settings(2e-5, 16, 3, 7))
    assert (c.optimizer.peak_lr, c.train.batch_size, c.train.epochs, c.train.seed) == (2e-5, 16, 3, 7)
    assert (c.data, c.init_from) == (CONFIG.data, CONFIG.init_from)


def test_the_default_is_the_papers_grid() -> None:
    grid = SweepConfig()
    assert (grid.peak_lr, grid.batch_size, grid.epochs) == ((5e-5, 3e-5, 2e-5), (16, 32), (2, 3, 4))


def test_finished_runs_are_not_repeated(tmp_path: Path, run: Run, asked: list[str]) -> None:
    def killed(c: FinetuneConfig, workdir: Path) -> dict[str, float]:
        if len(asked) == 3:
            raise KeyboardInterrupt
        return run(c, workdir)

    with pytest.raises(KeyboardInterrupt):
        sweep(CONFIG, tmp_path, killed)
    results = sweep(CONFIG, tmp_path, run)
    assert len(asked) == len(set(asked)) == len(results) == 8
    assert sweep(CONFIG, tmp_path, run) == results
    wider = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, seed=(0, 1, 2)))
    assert len(sweep(wider, tmp_path, run)) == len(set(asked)) == len(asked) == 12


def test_only_the_best_run_keeps_its_checkpoints(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(CONFIG, tmp_path, run)
    assert [path.parent.name for path in tmp_path.glob("*/checkpoints")] == ["lr2e-05-batch16-epochs3-seed1"]
    assert "best run: accuracy 0.5000, lr2e-05-batch16-epochs3-seed1" in capsys.readouterr().out
    table = (tmp_path / "sweep.tsv").read_text().splitlines()
    assert table[0] == "peak_lr\tbatch_size\tepochs\tseed\taccuracy\tloss"
    assert table[1] == "2e-05\t16\t2\t0\t0.20002\t1.0"
    assert len(table) == 9


def test_the_best_run_is_that_of_all_whatever_is_asked_for(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    results = sweep(CONFIG, tmp_path, run)
    whole = capsys.readouterr().out
    assert whole == (tmp_path / "sweep.txt").read_text()
    fewer = dataclasses.replace(CONFIG, sweep=dataclasses.replace(CONFIG.sweep, seed=(0,)))
    assert sweep(fewer, tmp_path, run) == results
    assert capsys.readouterr().out == whole
    best = whole.splitlines()[-1].split()[-1]
    assert [path.parent.name for path in tmp_path.glob("*/checkpoints")] == [best]


def test_a_sweep_is_no_run_and_says_so(tmp_path: Path, run: Run) -> None:
    sweep(CONFIG, tmp_path, run)
    with pytest.raises(UserError, match=r"holds a sweep; name a run's folder in it: sweep.tsv there"):
        report.write_report(tmp_path)


def test_an_object_store_is_refused(run: Run) -> None:
    with pytest.raises(UserError, match="gs://bucket/sweep is in an object store"):
        sweep(CONFIG, "gs://bucket/sweep", run)


def test_several_processes_are_refused(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="a sweep takes the devices of one process, and there are 2; start one"):
        sweep(CONFIG, tmp_path, run)


def test_another_sweep_is_refused(tmp_path: Path, run: Run) -> None:
    sweep(CONFIG, tmp_path, run)
    other = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, train="c.tsv"))
    with pytest.raises(UserError, match=r"other settings: data.train was 'a.tsv', now 'c.tsv'"):
        sweep(other, tmp_path, run)
    for name, value in (("init_from", "elsewhere"), ("train", dataclasses.replace(CONFIG.train, patience=1))):
        with pytest.raises(UserError, match=name):
            sweep(dataclasses.replace(CONFIG, **{name: value}), tmp_path, run)  # type: ignore[arg-type]
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(UserError, match=r"sweep.json is not the record of a sweep"):
        sweep(CONFIG, tmp_path, run)


def test_what_a_run_may_change_a_sweep_may(tmp_path: Path, run: Run, asked: list[str]) -> None:
    sweep(CONFIG, tmp_path, run)
    record = json.loads((tmp_path / "sweep.json").read_text())
    del record["config"]["train"]["mask_rate"], record["config"]["data"]["choices"]  # an older bertjax had none
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    train, data = dataclasses.replace(CONFIG.train, log_every=10), dataclasses.replace(CONFIG.data, test="c.tsv")
    sweep(dataclasses.replace(CONFIG, train=train, data=data), tmp_path, run)
    assert len(asked) == 8
    record = json.loads((tmp_path / "sweep.json").read_text())
    kept = runs.config_from_dict(FinetuneConfig, record["config"], "sweep.json")
    assert (kept.train.log_every, kept.data.test) == (10, "c.tsv")


@pytest.mark.parametrize(
    ("examples", "seeds_read"), [({}, [0]), ({"examples": 5}, [0, 1]), ({"examples_per_class": 5}, [0, 1])]
)
def test_runs_that_learn_from_the_same_examples_read_them_once(examples: dict[str, int], seeds_read: list[int]) -> None:
    read: list[int] = []

    def task(c: FinetuneConfig, _: Any) -> Any:
        read.append(c.train.seed)
        return object()

    c, once = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, **examples)), read_once(task)  # type: ignore[arg-type]
    tokenizer: Any = None
    tasks = [once(configured(c, Settings(lr, 16, 2, seed)), tokenizer) for seed in (0, 1) for lr in (5e-5, 2e-5)]
    assert read == seeds_read
    assert len(set(map(id, tasks))) == len(seeds_read)


def test_a_loss_that_is_not_finite_is_counted_and_not_tried_again(tmp_path: Path, run: Run, asked: list[str]) -> None:
    def diverging(c: FinetuneConfig, workdir: Path) -> dict[str, float]:
        figures = run(c, workdir)
        if c.optimizer.peak_lr > 3e-5:
            raise Diverged("the loss is nan")
        return figures

    results = sweep(CONFIG, tmp_path, diverging)
    assert sum(not result.figures for result in results) == 4
    assert "4 of 8 runs ended with a loss that was not finite" in summary(results, "accuracy")
    sweep(CONFIG, tmp_path, run)
    assert len(asked) == 8


def test_the_table_puts_the_best_median_first() -> None:
    scores = {(5e-5, 0): 0.7, (5e-5, 1): 0.8, (5e-5, 2): 0.75, (2e-5, 0): 0.9, (2e-5, 1): 0.6, (2e-5, 2): 0.5}
    results = [Result(Settings(lr, 32, 3, seed), {"f1": score}) for (lr, seed), score in scores.items()]
    lines = [line.split() for line in summary(results, "f1").splitlines()]
    assert lines[1] == ["5e-05", "32", "3", "3", "0.7500", "0.7000", "0.8000"]
    assert lines[2] == ["2e-05", "32", "3", "3", "0.6000", "0.5000", "0.9000"]
    assert lines[3] == ["best", "run:", "f1", "0.9000,", "lr2e-05-batch32-epochs3-seed0"]


@pytest.mark.parametrize(("values", "message"), [({"seed": ()}, "no values"), ({"epochs": (2, 2)}, "a value twice")])
def test_grids_that_make_no_sense_are_refused(values: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepConfig(**values)

"""Several processes: the run of one process, whichever of them is asked to leave, lost, or started differently."""

from __future__ import annotations

import csv
import dataclasses
import os
import pprint
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import finetune
import train
from bertjax import hosts
from bertjax.config import (
    Config,
    FinetuneConfig,
    MeshConfig,
    OptimizerConfig,
    TaskDataConfig,
    TaskTrainConfig,
)
from bertjax.hosts import LOST_PEER
from bertjax.training.metrics import TIMING, read_metrics
from tests.test_finetune import write
from tests.test_train import ROOT, wait_for_step
from tests.training.test_checkpoints import flip_a_bit

DEVICES = 8  # of all processes together
HEARTBEAT = 10  # seconds


class Processes:
    """The processes of a run, started on this machine with their share of eight devices; left ones are killed."""

    def __init__(self, config: Config | FinetuneConfig, workdir: Path, count: int, **flags_of_last: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        file = workdir.with_suffix(".py")
        file.write_text(f"from bertjax.config import *\n\n\ndef get_config():\n    return {pprint.pformat(config)}\n")
        environment = os.environ | {
            "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
            "JAX_PLATFORMS": "cpu",
        }
        script = "train.py" if isinstance(config, Config) else "finetune.py"
        command = [sys.executable, script, f"--config={file}", f"--workdir={workdir}"]
        command += [
            f"--mesh.coordinator=127.0.0.1:{port}",
            f"--mesh.processes={count}",
            f"--mesh.heartbeat_seconds={HEARTBEAT}",
        ]
        self.all = []
        for number in range(count):
            more = flags_of_last if number == count - 1 else {}
            own = [f"--mesh.process={number}", *(f"--{name}={value}" for name, value in more.items())]
            self.all.append(
                subprocess.Popen([*command, *own], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
            )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
            process.communicate()

    def ends(self) -> list[tuple[int, str]]:
        """Returns exit code and standard error of each."""
        said = [process.communicate(timeout=300)[1] for process in self.all]
        return [(process.returncode, text) for process, text in zip(self.all, said, strict=True)]


def assert_same_curve(workdir: Path, other: Path) -> None:
    ours, theirs = (list(_figures(folder)) for folder in (workdir, other))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(yours, rel=1e-5)


def _figures(workdir: Path) -> Iterator[dict[str, float]]:
    for line in read_metrics(workdir):
        yield {name: x for name, x in line.items() if name not in TIMING and name != "grad_norm"}


def test_four_processes_make_the_run_of_one_and_the_first_speaks(
    finished: Path, config: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with Processes(config, workdir, 4) as processes:
        ends = processes.ends()
    assert [code for code, _ in ends] == [0] * 4, ends
    assert_same_curve(workdir, finished)
    assert "the report is" in ends[0][1]
    assert "step" not in "".join(said for _, said in ends[1:])
    assert (workdir / "report.html").exists()


def test_two_processes_fine_tune_as_one(finished: Path, tmp_path: Path) -> None:
    files = {name: str(write(tmp_path / f"{name}.tsv", rows, rows)) for name, rows in (("train", 100), ("dev", 50))}
    files["test"] = str(write(tmp_path / "test.tsv", 21, 3, labelled=False))
    c = FinetuneConfig(
        init_from=str(finished),
        data=TaskDataConfig(train=files["train"], validation=files["dev"], test=files["test"], seq_len=32),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=2, batch_size=16),
    )
    finetune.run(c, tmp_path / "one")
    with Processes(c, tmp_path / "two", 2) as processes:
        ends = processes.ends()
    assert [code for code, _ in ends] == [0] * 2, ends
    assert_same_curve(tmp_path / "two", tmp_path / "one")
    told = [_predicted(tmp_path / name / "predictions-test.tsv") for name in ("one", "two")]
    assert len(told[0]) == 21
    assert told[1] == [pytest.approx(row, abs=1e-4) for row in told[0]]
    assert f"reading {files['train']}\n" in ends[0][1]
    assert "best checkpoint: step" in ends[0][1]
    assert ends[1][1] == ""
    assert (tmp_path / "two" / "report.html").exists()


def _predicted(path: Path) -> list[list[float]]:
    """Returns the probabilities of each row."""
    with path.open(encoding="utf-8", newline="") as file:
        return [[float(p) for p in row[3:]] for row in list(csv.reader(file, delimiter="\t"))[1:]]


def test_processes_measure_together_and_agree_on_what_the_first_found(config: Config, tmp_path: Path) -> None:
    short = dataclasses.replace(config, train=dataclasses.replace(config.train, budget="1s"))
    with Processes(short, tmp_path / "run", 2) as processes:
        ends = processes.ends()
    assert [code for code, _ in ends] == [1, 1], ends
    first, second = (said.splitlines()[-1].split(": ", 1)[1] for _, said in ends)
    assert first == second
    assert first.startswith("error: train.budget=1s leaves 0 s, but the shortest run, of steps=1, takes ")
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_others_leave_when_one_is_lost_and_one_process_goes_on(
    finished: Path, config: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with Processes(config, workdir, 2) as processes:
        first, second = processes.all
        wait_for_step(first, workdir, 13)
        second.kill()
        code, said = processes.ends()[0]
    assert "Traceback" not in said
    if code != -signal.SIGABRT:  # else the heartbeat told first, as below
        assert (code, "process 0: error: another process of the run is gone" in said) == (LOST_PEER, True)
    train.run(config, workdir)
    assert_same_curve(workdir, finished)


def test_the_others_leave_when_one_stops_answering(config: Config, tmp_path: Path) -> None:
    with Processes(config, tmp_path / "run", 2) as processes:
        first, second = processes.all
        wait_for_step(first, tmp_path / "run", 3)
        second.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        first.communicate(timeout=120)
    assert first.returncode in (LOST_PEER, -signal.SIGABRT)
    assert 128 + signal.SIGABRT == LOST_PEER  # what a shell, and with it a launcher, sees of JAX's own abort
    assert time.monotonic() - stopped < 2 * HEARTBEAT + 10


def test_all_set_a_damaged_checkpoint_aside(finished: Path, config: Config, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    flip_a_bit(workdir / "checkpoints" / "24")
    with Processes(config, workdir, 2) as processes:
        ends = processes.ends()
    assert [code for code, _ in ends] == [0, 0], ends
    assert "the checkpoint of step 24 is damaged" in ends[0][1]
    assert "going on from step 20 of 24" in ends[0][1]
    assert_same_curve(workdir, finished)


def test_all_save_and_leave_when_one_is_asked_and_another_mesh_goes_on(
    finished: Path, config: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    seldom = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, save_every=99))
    with Processes(seldom, workdir, 2) as processes:
        wait_for_step(processes.all[0], workdir, 3)
        processes.all[1].send_signal(signal.SIGTERM)
        ends = processes.ends()
    assert [code for code, _ in ends] == [128 + signal.SIGTERM] * 2, ends
    steps = [line["step"] for line in read_metrics(workdir) if "loss" in line]
    assert [p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()] == [str(steps[-1])]
    train.run(dataclasses.replace(config, mesh=MeshConfig(2, 2, 2)), workdir)
    assert_same_curve(workdir, finished)


def test_a_process_with_another_config_is_named_by_all(config: Config, tmp_path: Path) -> None:
    with Processes(config, tmp_path / "run", 2, **{"train.seed": "1"}) as processes:
        ends = processes.ends()
    for number, (code, said) in enumerate(ends):
        assert code == 1
        last = said.splitlines()[-1]
        assert last.startswith(f"process {number}: error: process 1 has another train.seed than process 0; start all")
    assert jax.process_count() == 1


def test_what_only_one_process_meets_does_not_keep_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[tuple[str, int]] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_start", lambda _: None)
    monkeypatch.setattr(hosts, "_leave", lambda line, code: left.append((line, code)))
    lost = jax.errors.JaxRuntimeError("UNAVAILABLE: no peer")
    waited = TimeoutError("at a barrier")
    waited.__cause__ = lost
    for error in (MemoryError("all gone"), lost, waited, FileNotFoundError("no corpus")):
        with hosts.joined(MeshConfig()):
            raise error
    assert "MemoryError: all gone" in left[0][0]
    assert [code for _, code in left] == [1, LOST_PEER, LOST_PEER, 1]
    assert left[-1][0] == "error: no corpus"

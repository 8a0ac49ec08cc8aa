"""Whole runs: learned, killed, resumed, refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pprint
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import train
from bertjax import runs, sharding
from bertjax.config import CheckpointConfig, Config, MeshConfig, ModelConfig, OptimizerConfig, Phase
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError
from bertjax.model.params import params_of
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import budget
from bertjax.training.checkpoints import load_params
from bertjax.training.metrics import TIMING, read_metrics
from bertjax.training.pretraining import Pretraining, make_pretraining
from bertjax.training.signals import StopRequest
from bertjax.training.step import Batch, TrainState

ROOT = Path(__file__).parents[1]


def untimed(workdir: Path) -> list[dict[str, float]]:
    """Returns the lines of metrics.jsonl without what a clock decides."""
    return [{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(workdir)]


def weights(workdir: Path) -> list[np.ndarray]:
    c = runs.read_config(workdir, Config).model
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
        abstract = params_of(nnx.eval_shape(lambda: BertForPretraining(c, rngs=nnx.Rngs(0))))
        return [np.asarray(x) for x in jax.tree.leaves(load_params(workdir, abstract))]


def start(config: Config, workdir: Path) -> subprocess.Popen[str]:
    """Starts the command on its own, on as many virtual devices as here."""
    file = workdir.with_suffix(".py")
    file.write_text(f"from bertjax.config import *\n\n\ndef get_config():\n    return {pprint.pformat(config)}\n")
    command = [sys.executable, "train.py", f"--config={file}", f"--workdir={workdir}"]
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(process: subprocess.Popen[str], workdir: Path, step: int) -> None:
    """Waits until metrics.jsonl has the step."""
    for _ in range(1800):
        path = workdir / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError(f"step {step} did not come")


def test_it_learns_and_leaves_what_a_workdir_holds(finished: Path, config: Config) -> None:
    lines = read_metrics(finished)
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, config.train.steps + 1))
    evaluations = [line for line in lines if "eval_loss" in line]
    assert [line["step"] for line in evaluations] == [8, 16, 24]
    assert evaluations[-1]["eval_mlm_loss"] < evaluations[0]["eval_mlm_loss"] < 4.7  # log of 100 entries is 4.6
    assert evaluations[0]["eval_nsp_pairs"] == 64
    assert (finished / "report.html").stat().st_size > 1000
    assert (finished / "tokenizer" / "tokenizer.json").exists()
    assert runs.read_config(finished, Config).model.vocab_size is not None


@pytest.mark.parametrize("save_every", [5, 1], ids=["between saves", "within a save"])
def test_killed_and_started_again_is_the_uninterrupted_run_bit_for_bit(
    finished: Path, config: Config, tmp_path: Path, save_every: int
) -> None:
    workdir = tmp_path / "run"
    config = dataclasses.replace(config, checkpoint=CheckpointConfig(save_every=save_every))
    process = start(config, workdir)
    wait_for_step(process, workdir, 13)
    process.kill()
    process.communicate()
    written = len(read_metrics(workdir)) if (workdir / "metrics.jsonl").read_text().endswith("\n") else 0
    train.run(config, workdir)
    assert untimed(workdir) == untimed(finished)
    assert written >= 13
    for ours, theirs in zip(weights(workdir), weights(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sigterm_saves_and_leaves_with_143_and_a_second_start_ends_the_same(
    finished: Path, config: Config, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    process = start(
        dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, save_every=99)), workdir
    )
    wait_for_step(process, workdir, 3)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: saving, then leaving" in said
    saved = [int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()]
    assert saved == [max(line["step"] for line in read_metrics(workdir) if "loss" in line)]
    train.run(config, workdir)
    assert untimed(workdir) == untimed(finished)


def test_a_finished_run_started_again_does_nothing(finished: Path, config: Config) -> None:
    before = untimed(finished)
    figures = train.run(config, finished)
    assert untimed(finished) == before
    assert figures["mlm_loss"] == before[-1]["eval_mlm_loss"]


def test_on_another_mesh_it_is_the_same_run_to_rounding(finished: Path, config: Config, tmp_path: Path) -> None:
    train.run(dataclasses.replace(config, mesh=MeshConfig(data=2, fsdp=2, model=2)), tmp_path / "run")
    for ours, theirs in zip(untimed(tmp_path / "run"), untimed(finished), strict=True):
        loss = "loss" if "loss" in ours else "eval_loss"
        assert ours[loss] == pytest.approx(theirs[loss], rel=2e-5)


def test_a_change_of_the_curve_is_refused(finished: Path, config: Config) -> None:
    changed = dataclasses.replace(config, optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=None))
    with pytest.raises(UserError, match=r"optimizer.peak_lr was 0.003, now 0.001"):
        train.run(changed, finished)


def test_two_runs_in_one_workdir_are_refused(finished: Path, config: Config) -> None:
    before = (finished / "config.json").read_text()
    slower = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, save_every=7))
    with runs.lock(finished), pytest.raises(UserError, match="is writing to"):
        train.run(slower, finished)
    assert (finished / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("model", {"vocab_size": 20}, "model.vocab_size=20 is less than the"),
        ("train", {"batch_size": 12}, "train.batch_size=12 does not divide over 8 data shards; use 8 or 16"),
        (
            "train",
            {"batch_size": 24, "microbatches": 2},
            "train.batch_size=24 does not divide over 8 data shards x 2 microbatches; use 16 or 32",
        ),
        ("data", {"seq_len": 16}, "was prepared with seq_len=32, more than data.seq_len=16"),
        ("data", {"path": "nowhere"}, "nowhere holds no prepared corpus"),
        ("data", {"path": ""}, "data.path is not set; name a directory"),
        ("mesh", {"data": 3}, "does not multiply out to the 8 devices"),
        ("optimizer", {"peak_lr": 1e30}, "the last good checkpoint is none"),
    ],
)
def test_mistakes_are_said(config: Config, tmp_path: Path, group: str, values: dict[str, object], message: str) -> None:
    wrong = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **values)})
    with pytest.raises(UserError, match=message):
        train.run(wrong, tmp_path / "run")


def test_the_command_says_a_mistake_in_one_line(config: Config, tmp_path: Path) -> None:
    wrong = dataclasses.replace(config, data=dataclasses.replace(config.data, path="nowhere"))
    process = start(wrong, tmp_path / "run")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.count("\n") == 1
    assert said.startswith("error: nowhere holds no prepared corpus")


def test_a_loss_beyond_all_measure_still_has_figures() -> None:
    """Of a run that is about to diverge: the perplexity is no float any more."""
    assert train.held_out_figures({"mlm_loss": 1e4}, [])["mlm_perplexity"] == math.exp(700)


def test_the_config_in_the_workdir_is_json(finished: Path) -> None:
    record = json.loads((finished / "config.json").read_text())
    assert record["config"]["train"]["steps"] == 24
    assert ModelConfig(**record["config"]["model"]).width == 32


def test_a_budget_is_measured_once_and_the_run_is_that_of_its_steps(
    finished: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    c = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2400, budget="4m"))
    found: list[tuple[float, budget.Speed]] = []

    def steps_within(_: Config, seconds: float, speed: budget.Speed) -> int:
        found.append((seconds, speed))
        return config.train.steps

    monkeypatch.setattr(budget, "steps_within", steps_within)
    monkeypatch.setattr(budget, "SHARE", 1e-4)
    train.run(c, tmp_path / "run")
    (left, speed), lines = found[0], capsys.readouterr().err.splitlines()
    assert 0 < left < 240 - speed.start
    assert min(speed.start, *speed.steps, *speed.evaluations, speed.checkpoint) > 0
    assert lines[0] == "8 x cpu, mesh {'data': 8, 'fsdp': 1, 'model': 1}, float32, attention by xla"
    assert lines[1] == f"train.budget=4m is 24 steps: {budget.described(speed)}"
    assert untimed(tmp_path / "run") == untimed(finished)  # nothing of the measured steps is left
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in finished.iterdir()}
    monkeypatch.setattr(budget, "measure", lambda *_: pytest.fail("measured again"))
    train.run(c, tmp_path / "run")
    assert runs.read_config(tmp_path / "run", Config).train == dataclasses.replace(c.train, steps=24)
    late = dataclasses.replace(c, train=dataclasses.replace(c.train, profile_from=30))
    with pytest.raises(UserError, match="has the 24 steps that its budget gave: profile_from=30"):
        train.run(late, tmp_path / "run")
    with pytest.raises(UserError, match=r"train\.budget was '4m', now '5m'"):
        train.run(dataclasses.replace(c, train=dataclasses.replace(c.train, budget="5m")), tmp_path / "run")
    with pytest.raises(UserError, match=r"train\.budget was None, now '4m'"):
        train.run(c, finished)


class StopAfter(StopRequest):
    """Asks to leave after so many steps, as a signal would."""

    steps = 0

    def agreed(self) -> bool:
        StopAfter.steps -= 1
        return StopAfter.steps == 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The ids of each batch that is trained on, in order."""
    batches: list[bytes] = []

    def recorded(*args: Any, **how: Any) -> Pretraining:
        made = make_pretraining(*args, **how)

        def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
            batches.append(np.asarray(batch["ids"]).tobytes())
            return made.train_step(state, batch)

        return made._replace(train_step=train_step)

    monkeypatch.setattr(train, "make_pretraining", recorded)
    return batches


def test_phases_follow_each_other_and_no_batch_is_seen_twice_or_skipped_wherever_it_stops(
    config: Config, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[bytes]
) -> None:
    vocab = str(corpus / "tokenizer" / "vocab.txt")
    longer = PrepareConfig(str(tmp_path / "longer"), vocab=vocab, seq_len=48, validation_share=0.1)
    prepare(longer, [corpus.parent / "stories.txt"])
    c = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, max_positions=48),
        train=dataclasses.replace(config.train, steps=20),
        phases=(Phase(8, batch_size=8, data=dataclasses.replace(config.data, path=longer.output, seq_len=48)),),
    )
    train.run(c, tmp_path / "whole")
    whole, widths = seen.copy(), [len(ids) for ids in seen]
    assert widths == [16 * 32 * 4] * 12 + [8 * 48 * 4] * 8
    assert len(set(whole)) == 20
    seen.clear()
    monkeypatch.setattr(train, "StopRequest", StopAfter)
    for StopAfter.steps in (9, 6, 99):  # in the first phase, in the second, and to the end
        train.run(c, tmp_path / "stopped")
    assert seen == whole
    assert untimed(tmp_path / "stopped") == untimed(tmp_path / "whole")
    evaluated = [line["step"] for line in read_metrics(tmp_path / "whole") if "eval_loss" in line]
    assert evaluated == [8, 12, 16, 20]  # the end of a phase is one
    other = dataclasses.replace(c.phases[0], batch_size=16)
    with pytest.raises(UserError, match=re.escape("phases.0.batch_size was 8, now 16")):
        train.run(dataclasses.replace(c, phases=(other,)), tmp_path / "whole")
    moved = dataclasses.replace(c.phases[0], data=dataclasses.replace(c.phases[0].data, path=f"{longer.output}/."))
    train.run(dataclasses.replace(c, phases=(moved,)), tmp_path / "whole")  # a corpus may lie elsewhere
    assert runs.read_config(tmp_path / "whole", Config).phases == (moved,)

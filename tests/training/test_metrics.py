"""metrics.jsonl: each step once, also after a kill; a loss that is not finite stops the run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from bertjax.config import TrainConfig
from bertjax.errors import UserError
from bertjax.storage import Folder
from bertjax.training.metrics import MetricsLog, last_evaluation, peak_flops, read_metrics


def figures(loss: float = 2.0, grad_norm: float = 1.0) -> dict[str, jnp.ndarray]:
    return {"loss": jnp.float32(loss), "grad_norm": jnp.float32(grad_norm), "tokens": jnp.int32(100)}


def log(workdir: Path, *, resumed_at: int = 0, log_every: int = 1, tokens: int = 0) -> MetricsLog:
    c = TrainConfig(log_every=log_every)
    return MetricsLog(Folder(workdir), c, steps=10, resumed_at=resumed_at, counters={"seconds": 5.0, "tokens": tokens})


def test_a_step_is_written_when_the_next_one_has_started(tmp_path: Path) -> None:
    with log(tmp_path) as out:
        out.train(1, figures())
        assert read_metrics(tmp_path) == []
        out.train(2, figures())
        (line,) = read_metrics(tmp_path)
        assert (line["step"], line["loss"], line["tokens"]) == (1, 2.0, 100)
        assert line["seconds"] >= 5.0
        out.flush()
        assert [line["tokens"] for line in read_metrics(tmp_path)] == [100, 200]
        assert out.counters()["tokens"] == 200


def test_a_resumed_run_drops_what_came_after_its_checkpoint_and_a_torn_line(tmp_path: Path) -> None:
    with log(tmp_path) as out:
        for step in range(1, 6):
            out.train(step, figures())
        out.evaluation(5, {"loss": 3.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    with log(tmp_path, resumed_at=3, tokens=300) as out:
        out.train(4, figures())
        out.flush()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["tokens"] == 400


def test_only_every_nth_step_and_the_last_is_written(tmp_path: Path) -> None:
    with log(tmp_path, log_every=4) as out:
        for step in range(1, 11):
            out.train(step, figures())
        out.flush()
    assert [line["step"] for line in read_metrics(tmp_path)] == [4, 8, 10]


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (float("inf"), 1.0), (2.0, float("nan"))])
def test_what_is_not_finite_stops_with_the_step(tmp_path: Path, loss: float, norm: float) -> None:
    with log(tmp_path) as out:
        out.train(7, figures(loss, norm))
        with pytest.raises(UserError, match=r"step 7: loss is .* lower optimizer.peak_lr"):
            out.flush()


def test_evaluations_are_prefixed_and_the_last_one_is_found(tmp_path: Path) -> None:
    with log(tmp_path) as out:
        out.evaluation(5, {"loss": 3.0, "accuracy": 0.5}, epoch=1)
        out.evaluation(10, {"loss": 2.0, "accuracy": 0.75}, epoch=2)
    assert read_metrics(tmp_path)[0]["eval_loss"] == 3.0
    assert last_evaluation(tmp_path) == {"loss": 2.0, "accuracy": 0.75}


def test_a_run_without_evaluation_or_metrics_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; is .* the workdir of a run"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")
    with pytest.raises(UserError, match="has no evaluation yet"):
        last_evaluation(tmp_path)


def test_tensorboard_events_are_written(tmp_path: Path) -> None:
    c = TrainConfig(tensorboard=True)
    with MetricsLog(Folder(tmp_path), c, steps=10, resumed_at=0, counters={}) as out:
        out.evaluation(5, {"loss": 3.0})
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_the_progress_line_has_what_is_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with log(tmp_path) as out:
        more = {"mlm_loss": 1.5, "mlm_accuracy": 0.25, "nsp_accuracy": 0.75}
        out.train(10, figures() | {name: jnp.float32(value) for name, value in more.items()})
        out.flush()
    said = capsys.readouterr().err
    for part in ("step", "10/10", "loss 2.000", "mlm acc 0.250", "nsp acc 0.750", "tokens/s", "left"):
        assert part in said


def test_runs_of_one_name_are_apart_at_weights_and_biases_and_a_resumed_one_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    lines: list[Any] = []
    run = SimpleNamespace(log=lambda line, step: lines.append((step, line)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: begun.append(how) or run))  # type: ignore[func-returns-value]
    for workdir in (tmp_path / "a" / "base", tmp_path / "b" / "base", tmp_path / "a" / "base"):
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.json").write_text("{}")
        with MetricsLog(Folder(workdir), TrainConfig(wandb_project="mine"), steps=10, resumed_at=0, counters={}) as out:
            out.evaluation(5, {"loss": 3.0})
    first, other, again = (how["id"] for how in begun)
    assert first == again != other
    assert {how["name"] for how in begun} == {"base"}
    assert lines[0][0] == 5
    assert lines[0][1]["eval_loss"] == 3.0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA GH200 480GB", 989e12), ("abacus", None)],
)
def test_the_peak_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch, kind: str, peak: float | None) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert peak_flops() == peak

"""What a run reports: metrics.jsonl, the progress line, TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from bertjax import hosts
from bertjax.config import TaskTrainConfig, TrainConfig
from bertjax.errors import UserError
from bertjax.storage import Folder
from bertjax.training.checkpoints import saved_steps

PROGRESS_EVERY = 5.0  # seconds between progress lines
TIMING = ("seconds", "tokens_per_second", "mfu")  # the figures that another run of the same config does not repeat

# Dense bfloat16 matrix products, FLOP/s a chip, by the makers' data sheets; the first that a name begins with counts.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


class Diverged(UserError):
    """The loss or the gradients are not finite."""


def peak_flops() -> float | None:
    """Returns the peak of all devices together (bfloat16 FLOP/s), None where it is not known."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)]
    return known[0] * jax.device_count() if known else None


class MetricsLog:
    """Writes each step's figures once, one step late, so that the device never waits for them to be read."""

    def __init__(
        self,
        folder: Folder,
        c: TrainConfig | TaskTrainConfig,
        *,
        steps: int,
        resumed_at: int,
        counters: Mapping[str, float],
    ):
        """Opens metrics.jsonl, dropping what a killed run wrote after the step it is resumed at.

        `counters` has `seconds` and `tokens` spent before; `steps` is the last step.
        """
        self.seconds = float(counters.get("seconds", 0.0))
        self.tokens = int(counters.get("tokens", 0))
        self.flops_per_token: float | None = None
        self._c, self._steps, self._resumed_at = c, steps, resumed_at
        self._peak = peak_flops()
        self._pending: tuple[int, dict[str, Any], dict[str, jax.Array]] | None = None
        self._folder = folder
        self._sinks = _sinks(folder.files, c, resumed_at) if hosts.is_first() else []
        self._started = time.perf_counter() - self.seconds
        self._last_read = time.perf_counter()
        self._last_progress = -math.inf
        self._since = {"steps": 0, "tokens": 0, "seconds": 0.0}

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.close()

    def train(self, step: int, figures: dict[str, jax.Array], **more: Any) -> None:
        """Keeps this step's figures on the device and writes those of the step before."""
        self.flush()
        self._pending = (step, more, figures)

    def flush(self) -> None:
        """Writes what is pending. Raises: Diverged if the loss is not finite."""
        if self._pending is None:
            return
        step, more, on_device = self._pending
        self._pending = None
        figures = {name: x.item() for name, x in jax.device_get(on_device).items()}
        if not math.isfinite(figures["loss"]) or not math.isfinite(figures["grad_norm"]):
            raise Diverged(
                f"step {step}: loss is {figures['loss']}, the gradients' norm {figures['grad_norm']}; the last good"
                f" checkpoint is {self._last_good()}. Running again would only repeat it: lower optimizer.peak_lr or"
                " lengthen the warm-up"
            )
        now = time.perf_counter()
        tokens = figures.pop("tokens")
        self.tokens += tokens
        self.seconds = now - self._started
        rate = tokens / max(now - self._last_read, 1e-9)
        self._since = {
            "steps": self._since["steps"] + 1,
            "tokens": self._since["tokens"] + tokens,
            "seconds": self._since["seconds"] + now - self._last_read,
        }
        self._last_read = now
        line = {"step": step, **more, **figures, "seconds": round(self.seconds, 3), "tokens": self.tokens}
        line |= {"tokens_per_second": round(rate, 1)} | self._mfu(rate)
        if step % self._c.log_every == 0 or step == self._steps:
            self._write(line)
        if now - self._last_progress >= PROGRESS_EVERY or step == self._steps:
            self._progress(line)
            self._last_progress = now

    def evaluation(self, step: int, figures: Mapping[str, float], **more: Any) -> None:
        """Writes the held-out figures of a step, each name prefixed with eval_, and says them."""
        self.flush()
        self.seconds = time.perf_counter() - self._started
        prefixed = {f"eval_{name}": value for name, value in figures.items()}
        self._write({"step": step, **more, **prefixed, "seconds": round(self.seconds, 3)})
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        hosts.say(f"step {step:>7}  held out: {shown}")
        self._last_read = time.perf_counter()  # the evaluation's time is not the next step's

    def counters(self) -> dict[str, float]:
        """Returns what a checkpoint keeps, so that a resumed run counts on."""
        return {"seconds": self.seconds, "tokens": self.tokens}

    def _mfu(self, tokens_per_second: float) -> dict[str, float]:
        if self._peak is None or self.flops_per_token is None:
            return {}
        return {"mfu": round(tokens_per_second * self.flops_per_token / self._peak, 4)}

    def _last_good(self) -> str:
        steps = saved_steps(self._folder.path)
        return f"that of step {steps[-1]}" if steps else "none"

    def _write(self, line: Mapping[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(line)

    def _progress(self, line: Mapping[str, Any]) -> None:
        since, self._since = self._since, {"steps": 0, "tokens": 0, "seconds": 0.0}
        seconds = max(since["seconds"], 1e-9)
        names = ("loss", "mlm_loss", "mlm_accuracy", "nsp_accuracy", "accuracy")
        parts = [
            f"{name.replace('accuracy', 'acc').replace('_', ' ')} {line[name]:.3f}" for name in names if name in line
        ]
        parts.append(f"{_short(since['tokens'] / seconds)} tokens/s")
        if "mfu" in line:
            parts.append(f"mfu {line['mfu']:.1%}")
        left = (self._steps - line["step"]) * seconds / max(1, since["steps"])
        first = line["step"] == self._resumed_at + 1  # its time is the compilation's
        parts.append("compiled" if first else f"{_clock(left)} left")
        hosts.say(f"step {line['step']:>7}/{self._steps}  {'  '.join(parts)}")


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl. Raises: UserError if it is missing or a line is not JSON."""
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{path} does not exist; is {workdir} the workdir of a run?")
    lines = []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # a running or killed run may be within a line
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number} is not JSON ({error.msg}); remove the line to go on") from error
    return lines


def last_evaluation(workdir: Path) -> dict[str, float]:
    """Returns the figures of a run's last evaluation, without their prefix."""
    lines = [line for line in read_metrics(workdir) if "eval_loss" in line]
    if not lines:
        raise UserError(f"{workdir / 'metrics.jsonl'} has no evaluation yet")
    return _held_out(lines[-1])


def evaluation_of(workdir: Path, step: int) -> dict[str, float]:
    """Returns the figures of a run's evaluation after `step`, without their prefix; none if there was no such."""
    figures: dict[str, float] = {}
    for line in read_metrics(workdir):
        if line["step"] == step:
            figures |= _held_out(line)
    return figures


def _held_out(line: Mapping[str, Any]) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in line.items() if name.startswith("eval_")}


def _drop_after(path: Path, step: int) -> None:
    """Cuts a metrics.jsonl back to lines of steps up to `step`; a line that a kill cut short goes too."""
    if not path.exists():
        return
    kept = []
    for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            complete = text.endswith("\n") and json.loads(text)["step"] <= step
        except json.JSONDecodeError:
            complete = False
        if complete:
            kept.append(text)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def _sinks(workdir: Path, c: TrainConfig | TaskTrainConfig, resumed_at: int) -> list[Any]:
    sinks: list[Any] = [JsonLinesSink(workdir / "metrics.jsonl", resumed_at)]
    if c.tensorboard:
        sinks.append(TensorBoardSink(workdir))
    if c.wandb_project is not None:
        sinks.append(WandbSink(workdir, c.wandb_project))
    return sinks


class JsonLinesSink:
    """Writes a line of JSON for each step and evaluation."""

    def __init__(self, path: Path, resumed_at: int):
        _drop_after(path, resumed_at)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes the line, to be seen at once."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoardSink:
    """Writes TensorBoard events into the workdir."""

    def __init__(self, workdir: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError("train.tensorboard needs an extra: pip install 'bertjax[tensorboard]'") from error
        self._writer = SummaryWriter(str(workdir))

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes each number of the line as a scalar."""
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Finishes the file."""
        self._writer.close()


class WandbSink:
    """Logs to Weights & Biases; the workdir keeps the id of its run, so that a resumed one goes on."""

    def __init__(self, workdir: Path, project: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError("train.wandb_project needs an extra: pip install 'bertjax[wandb]'") from error
        config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(uuid.uuid4().hex, encoding="utf-8")
        how = {"name": workdir.absolute().name, "id": id_file.read_text(encoding="utf-8"), "resume": "allow"}
        self._run = wandb.init(project=project, dir=str(workdir), config=config, **how)

    def write(self, line: Mapping[str, Any]) -> None:
        """Logs the line at its step."""
        self._run.log({name: value for name, value in line.items() if name != "step"}, step=line["step"])

    def close(self) -> None:
        """Finishes the run."""
        self._run.finish()


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

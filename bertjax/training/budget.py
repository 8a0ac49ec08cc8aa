"""How many steps a time is worth: measured once on the run's own batches, before it begins. Nothing of that is kept.

The run itself stays a function of its config, which says from then on how many steps it has.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from bertjax import hosts, storage
from bertjax.config import CheckpointConfig, Config
from bertjax.data import batches as data
from bertjax.errors import UserError
from bertjax.model.params import Params
from bertjax.training.checkpoints import Checkpoints
from bertjax.training.losses import Sums
from bertjax.training.step import Batch, TrainState, TrainStep, total

SHARE = 0.03  # of the budget, for the steps that are timed
FEWEST = 3  # steps that are timed, and batches of an evaluation


class Work(NamedTuple):
    """What the steps of a phase read and compute; they are counted from 0, the first of the phase."""

    batch_of: Callable[[int], data.Batch]
    send: Callable[[int], Batch]
    """The same batch, on the devices."""
    train_step: TrainStep
    eval_batch: Callable[[Params, data.Batch], Sums]
    held_out: Sequence[data.Batch]


class Speed(NamedTuple):
    """Seconds."""

    start: float
    """Until all that is needed is compiled."""
    steps: tuple[float, ...]
    """Of a step, in each phase."""
    evaluations: tuple[float, ...]
    """Of an evaluation, in each phase."""
    checkpoint: float


def described(speed: Speed) -> str:
    """Returns what was measured, for a log line."""
    steps, evaluations = (", then ".join(f"{x:.3g}" for x in seconds) for seconds in (speed.steps, speed.evaluations))
    return (
        f"{steps} s a step, {evaluations} s an evaluation, {speed.checkpoint:.3g} s a checkpoint,"
        f" {speed.start:.3g} s to compile"
    )


def steps_within(c: Config, seconds: float, speed: Speed) -> int:
    """Returns the most steps that end within so many seconds, evaluations and checkpoints among them.

    Raises: UserError if the fewest that have all phases take longer.
    """
    fewest = max([1, c.train.profiled.stop - 1, *(-(-c.train.steps // phase.steps) for phase in c.phases)])
    needed = seconds_of(c.with_steps(fewest), speed)
    if needed > seconds:
        raise UserError(
            f"train.budget={c.train.budget} leaves {max(0.0, seconds):.0f} s, but the shortest run, of steps={fewest},"
            f" takes {math.ceil(needed)} s; give {math.ceil(needed - seconds)} s more, or lower train.eval_rows"
        )
    most = fewest + int(seconds / min(speed.steps))
    choices = range(fewest, most + 1)
    return fewest - 1 + bisect.bisect(choices, seconds, key=lambda steps: seconds_of(c.with_steps(steps), speed))


def seconds_of(c: Config, speed: Speed) -> float:
    """Returns how long a run of this config takes, from when it starts to compile."""
    spent = speed.start
    for (steps, _), step, evaluation in zip(c.by_phase(), speed.steps, speed.evaluations, strict=True):
        spent += len(steps) * step
        spent += _times(steps, c.train.eval_every) * evaluation
        spent += _times(steps, c.checkpoint.save_every) * speed.checkpoint
    return spent


def _times(steps: range, every: int) -> int:
    """Returns how often something is done that is done every so many steps, and after the last."""
    return steps.stop // every - steps.start // every + (steps.stop % every > 0)


def measure(c: Config, works: Sequence[Work], first_state: Callable[[], TrainState], folder: storage.Folder) -> Speed:
    """Returns how fast this config runs here; needs its mesh.

    The step depends on the number of steps, so it will be compiled again: that counts as the start.
    """
    with _compiling_anew(), _timed() as first:
        state = jax.block_until_ready(first_state())
    start, steps, evaluations = first(), [], []
    for work, (_, part) in zip(works, c.by_phase(), strict=True):
        coming = data.prefetched(work.send, range(10**9), threads=part.data.threads, ahead=part.data.prefetch)
        with _compiling_anew():
            state, first_step = _seconds_a_step(work, state, coming, 1)
        state, pace = _seconds_a_step(work, state, coming, FEWEST)
        count = max(FEWEST, int(SHARE * c.train.budget_seconds / len(works) / hosts.of_first(pace)))
        state, step = _seconds_a_step(work, state, coming, count)
        _seconds_a_batch(work, state.params, work.held_out[:1])  # compiles it, for the run, too
        batch = _seconds_a_batch(work, state.params, work.held_out[:FEWEST])
        steps.append(step)
        evaluations.append(batch * len(work.held_out))
        start += max(0.0, first_step - step)
    _seconds_a_checkpoint(state, folder, c.checkpoint)  # compiles the checksums, for the run, too
    return Speed(start, tuple(steps), tuple(evaluations), _seconds_a_checkpoint(state, folder, c.checkpoint))


def _seconds_a_step(work: Work, state: TrainState, coming: Iterator[Batch], count: int) -> tuple[TrainState, float]:
    """Returns the state after `count` steps, and what one took; figures are read one step late, as in the run."""
    before = None
    with _timed() as seconds:
        for _ in range(count):
            state, figures = work.train_step(state, next(coming))
            jax.device_get(before)
            before = figures
        jax.block_until_ready(state)
    return state, seconds() / count


def _seconds_a_batch(work: Work, params: Params, batches: Sequence[data.Batch]) -> float:
    with _timed() as seconds:
        total([work.eval_batch(params, batch) for batch in batches])
    return seconds() / len(batches)


def _seconds_a_checkpoint(state: TrainState, folder: storage.Folder, c: CheckpointConfig) -> float:
    """Returns how long it takes until a checkpoint is written, beside where the run's will be."""
    scratch = storage.Folder(folder.path / "measured", folder.files / "measured")
    _remove(scratch)
    with _timed() as seconds, Checkpoints(scratch, c) as checkpoints:
        checkpoints.save(state, 0, {})
    taken = seconds()
    _remove(scratch)
    return taken


def _remove(scratch: storage.Folder) -> None:
    hosts.wait_for_all("the measured checkpoint is not needed")
    if hosts.is_first() and scratch.path.exists():
        scratch.path.rmtree()
    hosts.wait_for_all("the measured checkpoint is removed")


@contextlib.contextmanager
def _compiling_anew() -> Iterator[None]:
    """Turns the persistent cache off: a program found in it would not tell how long the run will compile its own."""
    before = jax.config.values["jax_enable_compilation_cache"]
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # it remembers whether it is on
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Yields a function that returns the seconds spent within."""
    began, ended = time.perf_counter(), 0.0
    yield lambda: ended - began
    ended = time.perf_counter()

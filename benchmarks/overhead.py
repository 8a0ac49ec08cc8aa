"""What does train.py add to its step: reading, masking, sending, metrics?

    python -m benchmarks.overhead --data.path=CORPUS [--config=FILE --group.field=value ...]

The loop of a run, and its bare step on a batch of the run, each in a process of its own, take turns. In a turn the loop
is let go on for some steps; the clock starts after those whose batches were made while it stood still, and stops when
the last is computed. Evaluations and checkpoints are not among them; `benchmarks.resuming` has what those cost. Prints
a JSON line: `overhead` is the share that the loop adds to the step's time, the median over the rounds.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

import train
from benchmarks.alternation import Contender, Trial, alternate, ratio
from benchmarks.our_step import our_step
from benchmarks.result import print_result
from benchmarks.train_step import Measured, read_batch, shape
from bertjax import backend, command_line
from bertjax.config import Config
from bertjax.errors import UserError, reported
from bertjax.training import budget

STEPS = 1_000_000  # of the run, which ends long before


class Gate:
    """Lets as many steps of a loop through as it is told to, and waits until they are computed.

    Each time `untimed` ones go first: their batches were made while the loop stood still.
    """

    def __init__(self, untimed: int) -> None:
        self._untimed = untimed
        self._allowed, self._ended = threading.Semaphore(0), threading.Semaphore(0)
        self._figures: Any = None

    def around(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        """Returns the train step, of which each call waits to be let through."""

        def held(state: Any, batch: Any) -> Any:
            self._allowed.acquire()
            state, self._figures = train_step(state, batch)
            self._ended.release()
            return state, self._figures

        return held

    def run(self, steps: int, loop: concurrent.futures.Future[Any]) -> float:
        """Returns the seconds that so many steps of the loop took. Raises: UserError if the loop has ended."""
        self._let_through(self._untimed, loop)
        started = time.perf_counter()
        self._let_through(steps, loop)
        return time.perf_counter() - started

    def _let_through(self, steps: int, loop: concurrent.futures.Future[Any]) -> None:
        if steps:
            self._allowed.release(steps)
        for _ in range(steps):
            while not self._ended.acquire(timeout=1):
                if loop.done():
                    raise UserError(f"the run has ended: {loop.exception() or 'it had no more steps'}")
        jax.block_until_ready(self._figures)


def our_loop(c: Config) -> Trial:
    """Returns the loop of train.py, which stands still between the turns; it ends with the process."""
    backend.start()
    jax.config.update("jax_enable_compilation_cache", False)  # as for the bare step
    c = dataclasses.replace(
        c,
        train=dataclasses.replace(c.train, steps=STEPS, eval_every=STEPS, budget=None),
        checkpoint=dataclasses.replace(c.checkpoint, save_every=STEPS),
    )
    gate, make_work = Gate(c.data.prefetch + c.data.threads), train.make_work

    def held_work(phase: train.Phase, mesh: jax.sharding.Mesh) -> budget.Work:
        work = make_work(phase, mesh)
        return work._replace(train_step=gate.around(work.train_step))

    setattr(train, "make_work", held_work)  # noqa: B010 - mypy knows a function when it sees one
    loop: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            with tempfile.TemporaryDirectory() as workdir:
                loop.set_result(train.run(c, workdir))
        except BaseException as error:
            loop.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return Trial(lambda steps: gate.run(steps, loop), dict)


def measure(a: Measured) -> dict[str, Any]:
    """Returns the figures. Raises: UserError without a corpus."""
    if not a.config.data.path:
        raise UserError("--data.path is not set; name a corpus that `bertjax prepare` wrote")
    c, batch, next_sentence = read_batch(a)
    timings = alternate(
        {"loop": Contender(our_loop, (a.config,)), "step": Contender(our_step, (c, batch, next_sentence))},
        rounds=a.rounds,
        turn_seconds=a.turn_seconds,
    )
    seconds = {name: {"median": one.median, "fastest": one.fastest} for name, one in timings.items()}
    overhead = ratio(timings["loop"], timings["step"]) - 1
    return shape(c, batch) | {"seconds": seconds, "overhead": overhead} | timings["step"].facts


def main() -> None:
    """The command."""
    a = command_line.arguments_of(Measured, __doc__ or "")
    with reported():
        print_result("overhead", measure(a), "jax", "flax")


if __name__ == "__main__":
    main()

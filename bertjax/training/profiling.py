"""A profiler's trace of some steps of a run, which TensorBoard's profile plugin and Perfetto open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

from bertjax import hosts, storage

T = TypeVar("T")


def traced(numbered: Iterable[tuple[int, T]], steps: range, folder: storage.Folder) -> Iterator[tuple[int, T]]:
    """Yields what it is given, (step, batch); of those in `steps` it writes a trace, with their numbers, to `profile`.

    A step is what the caller does until it asks for the next one. The trace goes on for one more, as that waits for
    the figures of the one before: the device is then done with all of them.
    """
    with contextlib.ExitStack() as trace:
        running = False
        for number, item in numbered:
            if number in steps and not running:
                trace.callback(hosts.say, f"the profile is in {folder.path / 'profile'}")
                trace.enter_context(jax.profiler.trace(folder.files / "profile"))
                running = True
            named = jax.profiler.StepTraceAnnotation("train", step_num=number)
            with named if number in steps else contextlib.nullcontext():
                yield number, item
            if running and number >= steps.stop:
                trace.close()
                running = False

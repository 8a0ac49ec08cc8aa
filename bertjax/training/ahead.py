"""Compilation ahead of time: the programs for batches of several lengths at once, not one by one as they are met."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import jax

from bertjax.training.step import Batch, Jitted

Tree = TypeVar("Tree")
Out = TypeVar("Out")


class Ahead(Generic[Tree, Out]):
    """A jitted function of a tree and a batch, with programs for some lengths of batches that threads compile.

    A call waits for the program of its length; one of another length compiles as any jitted function.
    """

    def __init__(self, function: Jitted[Tree, Out], mesh: jax.sharding.Mesh):
        self._function, self._mesh = function, mesh
        self._programs: dict[int, Future[jax.stages.Compiled]] = {}

    def compile(self, tree: Any, batches: Iterable[Batch]) -> None:
        """Begins to compile for a tree of such shapes with each of the batches; returns at once."""
        pool = ThreadPoolExecutor(os.cpu_count())
        self._programs |= {_length(batch): pool.submit(self._compiled, tree, batch) for batch in batches}
        pool.shutdown(wait=False)

    def _compiled(self, tree: Any, batch: Batch) -> jax.stages.Compiled:
        with jax.set_mesh(self._mesh):  # each thread has its own
            return self._function.lower(tree, batch).compile()

    def __call__(self, tree: Tree, batch: Batch) -> Out:
        """Returns what the function computes."""
        program = self._programs.get(_length(batch))
        found: Out = self._function(tree, batch) if program is None else program.result()(tree, batch)
        return found


def _length(batch: Batch) -> int:
    return batch["ids"].shape[1]

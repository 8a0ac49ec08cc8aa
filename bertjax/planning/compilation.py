"""The very step of train.py, compiled for a mesh, and what the compiler says of its memory."""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError

from bertjax import sharding
from bertjax.config import Config
from bertjax.data.batches import full_batch
from bertjax.training import step
from bertjax.training.pretraining import make_pretraining

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes a chip."""

    arguments: int  # weights, optimizer, batch
    temporaries: int  # activations kept for the backward pass, gradients
    outputs: int  # the new state and the figures
    aliased: int  # outputs that take the place of arguments

    @property
    def needed(self) -> int:
        """What is there at once, at most."""
        return self.arguments + self.temporaries + self.outputs - self.aliased


class Compiled(NamedTuple):
    """A step that fits."""

    seconds: float
    memory: Memory
    hlo: str


class TooLarge(NamedTuple):
    """A step that does not."""

    seconds: float
    needed: int  # bytes a chip


def compile_step(
    c: Config, mesh: jax.sharding.Mesh, *, pairs_per_row: int = 1, next_sentence: bool = True
) -> Compiled | TooLarge:
    """Returns the train step compiled for the mesh, whose devices need not be there."""
    with jax.set_mesh(mesh):
        run = make_pretraining(c, next_sentence=next_sentence)
        state = _placed(step.abstract_state(run.make_model, run.optimizer), mesh)
        rows = jax.eval_shape(lambda: full_batch(c.data, c.train.batch_size, pairs_per_row))
        batch = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, sharding.ACT_B))
            for name, x in rows.items()
        }
        started = time.perf_counter()
        try:
            made: Any = jax.jit(run.train_step, donate_argnums=0).lower(state, batch).compile()
        except JaxRuntimeError as error:
            needed = memory_asked(str(error))
            if needed is None:
                raise
            return TooLarge(time.perf_counter() - started, needed)
    seconds, sizes = time.perf_counter() - started, made.memory_analysis()
    memory = Memory(
        sizes.argument_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.output_size_in_bytes,
        sizes.alias_size_in_bytes,
    )
    return Compiled(seconds, memory, made.as_text())


def memory_asked(message: str) -> int | None:
    """Returns the bytes a chip that a compiler's out-of-memory error asks for; None of any other message."""
    found = re.search(r"Ran out of memory in memory space hbm\. Used ([\d.]+)([KMGT]) of", message)
    return round(float(found[1]) * UNITS[found[2]]) if found else None


def _placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Returns the abstract arrays, cut over the devices of the mesh."""

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = jax.P() if x.sharding is None else x.sharding.spec
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)

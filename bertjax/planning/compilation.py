"""The very step of train.py, compiled for devices that need not be there: what the compiler says of it."""

from __future__ import annotations

import math
import re
import time
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError

from bertjax import sharding
from bertjax.config import Config
from bertjax.data.batches import full_batch
from bertjax.planning.collectives import Collective, read_collectives
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


class Step(NamedTuple):
    """What is known of a step."""

    compile_seconds: float | None  # None if it was not compiled, but computed by formulas
    needed: int  # bytes a chip
    memory: Memory | None = None  # None where the compiler refused for want of it
    collectives: tuple[Collective, ...] = ()


def compile_step(c: Config, mesh: jax.sharding.Mesh, *, pairs_per_row: int = 1, next_sentence: bool = True) -> Step:
    """Returns what the compiler says of the train step on this mesh."""
    lowered, held = lower_step(c, mesh, pairs_per_row=pairs_per_row, next_sentence=next_sentence)
    started = time.perf_counter()
    try:
        made: Any = lowered.compile()
    except JaxRuntimeError as error:
        asked = memory_asked(str(error), held)
        if asked is None:
            raise
        return Step(time.perf_counter() - started, asked)
    seconds, sizes = time.perf_counter() - started, made.memory_analysis()
    memory = Memory(
        sizes.argument_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.output_size_in_bytes,
        sizes.alias_size_in_bytes,
    )
    slices = [sharding.slice_of(device) for device in mesh.devices.flat]
    return Step(seconds, memory.needed, memory, tuple(read_collectives(made.as_text(), mesh.shape, slices)))


def lower_step(
    c: Config, mesh: jax.sharding.Mesh, *, pairs_per_row: int, next_sentence: bool
) -> tuple[jax.stages.Lowered, int]:
    """Returns the train step as the mesh's compiler reads it, and the bytes of state and batch that a chip holds."""
    with jax.set_mesh(mesh):
        run = make_pretraining(c, next_sentence=next_sentence)
        state = _placed(step.abstract_state(run.make_model, run.optimizer), mesh)
        batch = abstract_batch(c, mesh, pairs_per_row)
        return jax.jit(run.train_step, donate_argnums=0).lower(state, batch), held_by((state, batch))


def abstract_batch(c: Config, mesh: sharding.AnyMesh, pairs_per_row: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns names, shapes, types and shardings of a step's batch."""
    cut = jax.NamedSharding(mesh, sharding.ACT_B)
    rows = full_batch(c.data, 1, pairs_per_row)
    return {
        name: jax.ShapeDtypeStruct((c.train.batch_size, *x.shape[1:]), x.dtype, sharding=cut)
        for name, x in rows.items()
    }


def held_by(tree: Any) -> int:
    """Returns the bytes of these arrays that a chip holds."""

    def held(x: jax.ShapeDtypeStruct) -> int:
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(held(x) for x in jax.tree.leaves(tree))


def memory_asked(message: str, arguments: int) -> int | None:
    """Returns the bytes a chip that a compiler's out-of-memory error asks for; None of any other message.

    Beside `arguments` bytes of arguments, where it speaks of temporaries only.
    """
    if every := re.search(r"Ran out of memory in memory space hbm\. Used ([\d.]+)([KMGT]) of", message):
        return round(float(every[1]) * UNITS[every[2]])
    if temporaries := re.search(r"required for HLO temporaries \(([\d.]+)([KMGT])\) exceeds", message):
        return arguments + round(float(temporaries[1]) * UNITS[temporaries[2]])
    return None


def _placed(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Returns the abstract arrays, cut over the devices of the mesh."""

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        spec = jax.P() if x.sharding is None else x.sharding.spec
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)

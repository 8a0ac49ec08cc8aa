"""A step without a compiler: what automatic differentiation keeps, and what each way of cutting it has to send."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh

from bertjax.config import Config
from bertjax.model.params import Params
from bertjax.planning.collectives import Collective
from bertjax.planning.compilation import Memory, Step, abstract_batch, held_by
from bertjax.training import step
from bertjax.training.losses import objective, pretraining_loss
from bertjax.training.pretraining import make_pretraining


def estimate_step(c: Config, mesh: AbstractMesh, *, per_slice: int, pairs_per_row: int, next_sentence: bool) -> Step:
    """Returns what a step comes to on `per_slice` devices to a slice, or node.

    Of temporaries: what is kept for the backward pass of a microbatch, by its very shapes, what one block computes
    again of it, and float32 gradients; of attention the weights, too, which no kernel would keep. A compiler may need
    less or more; docs/plan.md has both for TPUs.
    """
    part = dataclasses.replace(c.train, batch_size=c.train.batch_size // c.train.microbatches)
    part_of_c = dataclasses.replace(c, train=part)
    everything = dataclasses.replace(part_of_c, model=dataclasses.replace(c.model, remat="none"))
    with jax.sharding.use_abstract_mesh(mesh):
        run = make_pretraining(c, next_sentence=next_sentence)
        state = step.abstract_state(run.make_model, run.optimizer)
        kept, all_kept = (
            held_by(_kept(each, state.params, mesh, pairs_per_row, next_sentence)) for each in (part_of_c, everything)
        )
    temporaries = kept + (all_kept - kept) // c.model.layers + held_by(state.params)
    arguments = held_by((state, abstract_batch(c, mesh, pairs_per_row)))
    memory = Memory(arguments, temporaries, held_by(state), held_by(state))
    sent = tuple(_sent(c, mesh.shape, state.params, per_slice))
    return Step(None, memory.needed, memory, sent)


def _kept(c: Config, params: Params, mesh: AbstractMesh, pairs_per_row: int, next_sentence: bool) -> Any:
    """Returns the abstract arrays that the forward pass leaves for the backward pass."""
    make_model = make_pretraining(c, next_sentence=next_sentence).make_model
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))

    def forward(params: Params, batch: step.Batch, key: jax.Array) -> Any:
        def loss(params: Params) -> jax.Array:
            model: Any = nnx.merge(graphdef, step.in_precision(params, c.train.precision))
            return objective(pretraining_loss(model, batch, key))

        return jax.vjp(loss, params)[1]

    key = jax.eval_shape(lambda: jax.random.key(0, impl=c.train.prng))
    return jax.eval_shape(forward, params, abstract_batch(c, mesh, pairs_per_row), key)


def _sent(c: Config, shape: Mapping[str, int], params: Params, per_slice: int) -> Iterator[Collective]:
    """Yields what must be sent: gradients over data, weights and gradients over fsdp, activations over model."""
    width = 2 if c.train.precision == "bfloat16" else 4  # bytes of what is multiplied, and of its gradient
    data, fsdp, model = (shape[axis] for axis in ("data", "fsdp", "model"))
    weights = sum(x.size for x in jax.tree.leaves(params)) * width // model
    if data > 1:
        yield _collective("all-reduce", "data", data, fsdp * model, 1, weights // fsdp, per_slice)
    if fsdp > 1:
        gathered = 2 * c.train.microbatches  # for the forward and for the backward pass
        yield _collective("all-gather", "fsdp", fsdp, model, gathered, gathered * weights, per_slice)
        parts = c.train.microbatches
        yield _collective("reduce-scatter", "fsdp", fsdp, model, parts, parts * weights, per_slice)
    if model > 1:
        times = 4 * c.model.layers  # after attention and feed-forward, forward and backward
        tokens = c.train.batch_size // (data * fsdp) * c.data.seq_len
        size = times * tokens * c.model.width * width
        yield _collective("all-reduce", "model", model, 1, times * c.train.microbatches, size, per_slice)


def _collective(kind: str, axis: str, group: int, stride: int, count: int, size: int, per_slice: int) -> Collective:
    """Returns a collective of devices so far apart in the mesh, of which each slice has so many in a row."""
    spanned = math.ceil(group * stride / per_slice)
    return Collective(kind, (axis,), group, min(spanned, group), count, size)

"""The jitted step: loss, gradients, update. Pretraining and fine-tuning differ only in the model and loss they pass."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bertjax import sharding
from bertjax.config import Precision, Prng
from bertjax.model.params import Params, name_of, params_of
from bertjax.training.losses import Sums, objective

Batch = Mapping[str, jax.Array]
Out = TypeVar("Out")
MakeModel = Callable[[nnx.Rngs], nnx.Module]
Loss = Callable[[Any, Batch, jax.Array | None], Sums]
"""loss(model, batch, key) returns sums, whose `objective` is minimised; no dropout without a key.

No weight depends on the model.
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on: what it reads next follows from the step."""

    step: jax.Array  # int32 [], updates done
    params: Params
    opt_state: optax.OptState


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def fresh_params(make_model: MakeModel, seed: int) -> Params:
    """Returns new weights. One jitted computation makes them where they belong: no device holds more than its part."""
    return jax.jit(lambda: params_of(make_model(nnx.Rngs(seed))))()


def first_state(params: Params, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first update."""
    return TrainState(jnp.int32(0), params, jax.jit(tx.init)(params))


def abstract_state(make_model: MakeModel, tx: optax.GradientTransformation) -> TrainState:
    """Returns the shapes, types and shardings of the state, without making it."""
    return jax.eval_shape(lambda: first_state(fresh_params(make_model, 0), tx))


def make_train_step(
    make_model: MakeModel,
    loss: Loss,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    *,
    seed: int | jax.Array,
    precision: Precision,
    microbatches: int = 1,
    prng: Prng = "threefry2x32",
) -> TrainStep:
    """Returns train_step(state, batch) -> (state, figures); `state` is donated.

    Dropout's key folds from the seed and the step. The gradients of several microbatches are added up before the one
    update; means stay means over the global batch, however unevenly its predictions lie. Figures are such means, the
    gradients' norm before clipping, the learning rate, and `tokens`, the batch's real tokens.
    """
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))

    def sums_of(params: Params, batch: Batch, key: jax.Array | None) -> Sums:
        return loss(nnx.merge(graphdef, in_precision(params, precision)), batch, key)

    def whole(params: Params, batch: Batch, key: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
        def loss_of(params: Params) -> tuple[jax.Array, Sums]:
            sums = sums_of(params, batch, key)
            return objective(sums), sums

        return jax.value_and_grad(loss_of, has_aux=True)(params)

    def accumulated(params: Params, batch: Batch, key: jax.Array) -> tuple[tuple[jax.Array, Sums], Params]:
        # Cast once, not in every part; what the parts' gradients add up in stays float32.
        cast = in_precision(params, precision)
        # Only the weights are used, which follow from the batch: XLA drops the rest of this forward pass.
        weights = {name: weight for name, (_, weight) in sums_of(cast, batch, None).items()}

        def part_of(params: Params, part: Batch, key: jax.Array) -> tuple[jax.Array, Sums]:
            sums = sums_of(params, part, key)
            return objective(sums, weights), sums

        def add(so_far: tuple[Sums, Params], part: tuple[Batch, jax.Array]) -> tuple[tuple[Sums, Params], None]:
            (_, sums), grads = jax.value_and_grad(part_of, has_aux=True)(cast, *part)
            return jax.tree.map(jnp.add, so_far, (sums, grads)), None

        nothing = {name: (jnp.float32(0), jnp.float32(0)) for name in weights}
        parts = jax.tree.map(lambda x: _cut(x, microbatches), batch), jax.random.split(key, microbatches)
        (sums, grads), _ = jax.lax.scan(add, (nothing, jax.tree.map(jnp.zeros_like, params)), parts)
        return (objective(sums), sums), grads

    gradients = whole if microbatches == 1 else accumulated

    @functools.partial(jax.jit, donate_argnames="state")
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed, impl=prng), state.step)
        (value, sums), grads = gradients(state.params, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        figures = {"loss": value} | {name: total / jnp.maximum(weight, 1) for name, (total, weight) in sums.items()}
        figures |= {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
            "tokens": jnp.sum(batch["spans"] > 0),
        }
        return TrainState(state.step + 1, params, opt_state), figures

    return train_step


def make_forward(
    make_model: MakeModel, function: Callable[[Any, Batch], Out], precision: Precision
) -> Callable[[Params, Batch], Out]:
    """Returns forward(params, batch) -> function(model, batch), jitted: for evaluation and prediction."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(nnx.Rngs(0))))

    @jax.jit
    def forward(params: Params, batch: Batch) -> Out:
        return function(nnx.merge(graphdef, in_precision(params, precision)), batch)

    return forward


def total(parts: list[Sums]) -> dict[str, float]:
    """Returns the mean of each figure over several batches: sums added up, then divided once."""
    fetched = jax.device_get(parts)
    means = {}
    for name in fetched[0]:
        weight = float(sum(np.float64(part[name][1]) for part in fetched))
        means[name] = float(sum(np.float64(part[name][0]) for part in fetched)) / max(weight, 1.0)
    return means


def to_mesh(
    batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh, *, held: sharding.HeldRows | None = None
) -> dict[str, jax.Array]:
    """Returns global arrays, cut over the mesh, made of the rows of a batch that are `held` here, by default all."""
    cut = jax.NamedSharding(mesh, sharding.ACT_B)

    def global_array(x: np.ndarray) -> jax.Array:
        rows = sharding.HeldRows(len(x), range(len(x))) if held is None else held

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            first, end, _ = (index or (slice(None),))[0].indices(rows.batch_size)
            place = bisect.bisect_left(rows.numbers, first)
            return x[place : place + end - first]

        return jax.make_array_from_callback((rows.batch_size, *x.shape[1:]), cut, part)

    return {name: global_array(x) for name, x in batch.items()}


def _cut(x: jax.Array, parts: int) -> jax.Array:
    """Returns [parts, B / parts, ...], every `parts`-th row together: on any mesh the same rows, and none moves."""
    rows, *rest = x.shape
    return jnp.moveaxis(jnp.reshape(x, (rows // parts, parts, *rest), out_sharding=sharding.ACT_B), 1, 0)


def in_precision(params: Params, precision: Precision) -> Params:
    """Returns the matrices in the precision of the products; biases and LayerNorm stay float32."""
    if precision == "auto":
        raise ValueError("precision='auto' is not one to compute in; take that of `backend.fastest_precision`")
    if precision == "float32":
        return params

    def cast(path: jax.tree_util.KeyPath, x: jax.Array) -> jax.Array:
        vector = {"bias", "scale"} & set(name_of(path).split("."))
        return x if vector else x.astype(jnp.bfloat16)

    return jax.tree.map_with_path(cast, params)

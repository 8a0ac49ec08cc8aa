"""What a fine-tuning run computes: what a step reads, what it does, and what the model says of a file.

Shape letters: B batch (rows).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from bertjax import hosts, sharding
from bertjax.config import FinetuneConfig, ModelConfig, Precision
from bertjax.data.tokenizer import Tokenizer
from bertjax.model import kernels
from bertjax.model.params import Params
from bertjax.tasks import batches
from bertjax.training import optimizers, programs, step
from bertjax.training.metrics import PROGRESS_EVERY


def training_batches(
    features: batches.Features,
    padded: Sequence[int],
    c: FinetuneConfig,
    tokenizer: Tokenizer,
    mesh: jax.sharding.Mesh,
) -> Callable[[int], dict[str, jax.Array]]:
    """Returns batch(step), steps counted from 0, on the mesh."""
    lengths_N = features.lengths_N

    @functools.lru_cache(maxsize=8)  # batches are made a few ahead, which may be of as many epochs
    def order(epoch: int) -> list[batches.Choice]:
        return batches.epoch_batches(lengths_N, c.train.batch_size, padded, seed=c.train.seed, epoch=epoch)

    def batch(s: int) -> dict[str, jax.Array]:
        epoch, place = divmod(s, -(-len(features.ids) // c.train.batch_size))
        made = batches.make_batch(features, order(epoch)[place], c.train.batch_size)
        if c.train.mask_rate:
            special_ids, mask_id = tokenizer.special_ids, tokenizer.mask_id
            made["ids"] = batches.hide_tokens(
                made["ids"], c.train.mask_rate, mask_id=mask_id, special_ids=special_ids, seed=c.train.seed, step=s
            )
        return step.to_mesh(made, mesh)

    return batch


def what_computes(
    c: ModelConfig, features: batches.Features, padded: Sequence[int], precision: Precision, mesh: jax.sharding.Mesh
) -> str:
    """Returns by what rows of these lengths are computed, for a log: by the reference where a kernel cannot."""
    most_spans = max((int(spans[-1]) for spans in features.spans or ()), default=1)
    how: dict[str, Any] = {"dtype": precision, "most_spans": most_spans}
    device = sharding.device_of(mesh)
    cases = (kernels.case_of(c, device, positions=length, **how) for length in padded)
    return kernels.describe((kernels.choose(c.attention, case) for case in cases), kernels.norm_of(c, device))


def make_optimizer(c: FinetuneConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer of the weights that are not frozen."""
    return optimizers.freeze(optimizers.make_optimizer(c.optimizer, schedule), c.train.frozen_layers)


def make_train_step(
    make_model: step.MakeModel, loss: step.Loss, rates: np.ndarray, c: FinetuneConfig, mesh: jax.sharding.Mesh
) -> Callable[[step.TrainState, step.Batch, int], tuple[step.TrainState, dict[str, jax.Array]]]:
    """Returns train_step(state, batch, number), where `rates` has the learning rate of each step, counted from 0.

    Rate and seed are arguments of the program, no constants: of a sweep all runs with one batch size share it.
    """

    @functools.partial(jax.jit, donate_argnames="state")
    def settled(
        state: step.TrainState, batch: step.Batch, rate: jax.Array, seed: jax.Array
    ) -> tuple[step.TrainState, dict[str, jax.Array]]:
        def schedule(_: jax.typing.ArrayLike) -> jax.Array:
            return rate

        optimizer, precision = make_optimizer(c, schedule), c.train.precision
        made = step.make_train_step(make_model, loss, optimizer, schedule, seed=seed, precision=precision)
        return made(state, batch)

    program, seed = programs.shared(settled, mesh), np.uint32(c.train.seed % 2**32)  # as jax cuts a longer seed
    return lambda state, batch, number: program(state, batch, rates[number], seed)


def make_outputs(
    make_model: step.MakeModel,
    function: Callable[[nnx.Module, step.Batch], jax.Array],
    padded: Sequence[int],
    c: FinetuneConfig,
    mesh: jax.sharding.Mesh,
) -> Callable[[Params, str, batches.Features], list[np.ndarray]]:
    """Returns outputs(params, name, features): function(model, batch) [B, ...] of each row of a file, in order.

    Where that takes long it prints how far it is, with the file's name.
    """
    forward = programs.shared(step.make_forward(make_model, function, c.train.precision), mesh)

    def outputs(params: Params, name: str, features: batches.Features) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.zeros(0)] * len(features.ids)
        done, said = 0, time.monotonic()
        for choice in batches.evaluation_batches(features.lengths_N, c.train.batch_size, padded):
            batch = step.to_mesh(batches.make_batch(features, choice, c.train.batch_size), mesh)
            rows = hosts.whole(forward(params, batch))
            for row, i in enumerate(choice.indices):
                found[i] = rows[row]
            done += len(choice.indices)
            if time.monotonic() - said >= PROGRESS_EVERY:
                said = time.monotonic()
                hosts.say(f"{name}: {done} of {len(found)} rows read")
        return found

    return outputs

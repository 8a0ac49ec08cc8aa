"""What a pretraining run computes: train.py runs it, `bertjax plan` compiles it for devices that are not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax
from flax import nnx

from bertjax import sharding
from bertjax.config import Config
from bertjax.model.params import Params
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import optimizers, step
from bertjax.training.losses import Sums, pretraining_loss


class Pretraining(NamedTuple):
    """The functions of a run; all are called under `jax.set_mesh`."""

    make_model: step.MakeModel
    optimizer: optax.GradientTransformation
    train_step: step.TrainStep
    eval_step: Callable[[Params, step.Batch], Sums]


def make_pretraining(c: Config, *, next_sentence: bool) -> Pretraining:
    """Returns what a run of this config computes; without `next_sentence` masked words are all of it."""

    def make_model(rngs: nnx.Rngs) -> BertForPretraining:
        _, platform = sharding.device_of(jax.sharding.get_abstract_mesh())
        return BertForPretraining(c.model.unrolled(auto=platform != "tpu"), next_sentence=next_sentence, rngs=rngs)

    rate = optimizers.learning_rate(c.optimizer, c.train.steps)
    optimizer = optimizers.make_optimizer(c.optimizer, rate)
    train_step = step.make_train_step(
        make_model,
        pretraining_loss,
        optimizer,
        rate,
        seed=c.train.seed,
        precision=c.train.precision,
        microbatches=c.train.microbatches,
        prng=c.train.prng,
    )
    eval_step = step.make_forward(
        make_model, lambda model, batch: pretraining_loss(model, batch, None), c.train.precision
    )
    return Pretraining(make_model, optimizer, train_step, eval_step)

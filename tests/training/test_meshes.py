"""The same run everywhere: on every mesh of eight devices, however memory is saved, the figures of one device."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from bertjax import sharding
from bertjax.config import MeshConfig, ModelConfig, OptimizerConfig
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import optimizers, step
from bertjax.training.losses import pretraining_loss
from tests.training.conftest import uneven_batch

STEPS, ROWS = 20, 16
OPTIMIZER = OptimizerConfig(peak_lr=1e-3, warmup_steps=2)
CONFIG = ModelConfig(vocab_size=100, width=32, layers=2, heads=8, mlp_width=64, max_positions=16)
STILL = dataclasses.replace(CONFIG, dropout=0.0, attention_dropout=0.0)
MESHES = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2), (4, 2, 1)]

Sizes = tuple[int, int, int]


class Run(NamedTuple):
    figures: list[dict[str, float]]
    held_out: dict[str, float]
    gradients: list[np.ndarray]  # of the first step
    tokens_on: set[str]  # how the token embedding is cut


def remembered() -> optax.GradientTransformation:
    """Returns a transformation that changes nothing and whose state is the last gradients."""

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del state, params
        return grads, grads

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


@functools.cache
def run(
    c: ModelConfig, sizes: Sizes = (1, 1, 1), *, steps: int = STEPS, optimizer: OptimizerConfig = OPTIMIZER, **how: Any
) -> Run:
    """Returns what a run came to on a mesh of these sizes: packed rows, uneven predictions, another batch each step."""
    mesh = sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])

    def make_model(rngs: nnx.Rngs) -> BertForPretraining:
        return BertForPretraining(c, rngs=rngs)

    rate = optimizers.learning_rate(optimizer, STEPS)
    tx = optax.chain(remembered(), optimizers.make_optimizer(optimizer, rate))
    figures, gradients = [], []
    with jax.set_mesh(mesh):
        made = step.make_train_step(make_model, pretraining_loss, tx, rate, seed=0, precision="float32", **how)
        train_step = jax.jit(made)
        forward = jax.jit(step.make_forward(make_model, lambda m, b: pretraining_loss(m, b, None), "float32"))
        state = jax.jit(lambda: step.first_state(step.fresh_params(make_model, 0), tx))()
        for number in range(steps):
            state, on_device = train_step(state, step.to_mesh(uneven_batch(number, ROWS), mesh))
            figures.append({name: float(x) for name, x in on_device.items()})
            if number == 0:
                gradients = [np.asarray(x) for x in jax.tree.leaves(state.opt_state[0])]
        held_out = step.total([forward(state.params, step.to_mesh(uneven_batch(n, ROWS), mesh)) for n in (98, 99)])
        embedding = state.params["encoder"]["embeddings"]["token"]["embedding"]
    return Run(figures, held_out, gradients, {str(s.index) for s in embedding[...].addressable_shards})


def assert_same(ours: Run, theirs: Run) -> None:
    """Losses and held-out figures to 1e-5, the first gradients to 1e-5 of their global norm."""
    for mine, other in zip(ours.figures, theirs.figures, strict=True):
        for name in ("loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy", "tokens"):
            assert mine[name] == pytest.approx(other[name], rel=1e-5), name
    assert ours.held_out == pytest.approx(theirs.held_out, rel=1e-5)
    apart = [a - b for a, b in zip(ours.gradients, theirs.gradients, strict=True)]
    assert norm(apart) < 1e-5 * norm(theirs.gradients)


def norm(arrays: list[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays)))


@pytest.mark.parametrize("sizes", MESHES)
def test_a_mesh_changes_nothing(sizes: Sizes) -> None:
    many = run(CONFIG, sizes)
    assert_same(many, run(CONFIG))
    assert len(many.tokens_on) == sizes[1] * sizes[2]  # the vocabulary is cut over fsdp and model


def test_a_mesh_changes_nothing_of_lamb() -> None:
    lamb = dataclasses.replace(OPTIMIZER, kind="lamb")
    assert_same(run(CONFIG, (2, 2, 2), optimizer=lamb), run(CONFIG, optimizer=lamb))


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 8)])
def test_a_mesh_changes_nothing_of_the_modern_block(sizes: Sizes) -> None:
    modern = dataclasses.replace(CONFIG, family="modernbert", layers=4, local_window=4)  # layers 0 and 3 are global
    assert_same(run(modern, sizes), run(modern))


@pytest.mark.parametrize(
    ("remat", "unroll", "sizes"),
    [("products", False, (1, 1, 1)), ("block", True, (1, 1, 1)), ("block", False, (2, 2, 2))],
)
def test_rematerialisation_changes_nothing(remat: Any, unroll: bool, sizes: Sizes) -> None:
    assert_same(run(dataclasses.replace(CONFIG, remat=remat, unroll_layers=unroll), sizes), run(CONFIG))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_accumulated_gradients_are_those_of_the_whole_batch(sizes: Sizes) -> None:
    assert_same(run(STILL, sizes, microbatches=2), run(STILL))


def test_another_generator_drops_out_too() -> None:
    loss, default = run(CONFIG, (2, 2, 2), prng="rbg", steps=1).figures[0]["loss"], run(CONFIG).figures[0]["loss"]
    assert loss != default
    assert loss == pytest.approx(default, rel=0.2)

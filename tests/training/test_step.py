"""The step: keyed by the seed and the step; a global mean. Meshes have a file of their own."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from bertjax import sharding
from bertjax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import optimizers, step
from bertjax.training.losses import pretraining_loss
from bertjax.training.pretraining import make_pretraining

OPTIMIZER = OptimizerConfig(peak_lr=1e-3, warmup_steps=0)
Figures = list[dict[str, float]]


def run(
    c: ModelConfig,
    batch: dict[str, np.ndarray],
    *,
    steps: int = 3,
    seed: int = 0,
    precision: Any = "float32",
    optimizer: OptimizerConfig = OPTIMIZER,
) -> Figures:
    """Returns the figures of a few steps on one device, from the same weights; `seed` is that of the dropout."""
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])

    def make_model(rngs: nnx.Rngs) -> BertForPretraining:
        return BertForPretraining(c, rngs=rngs)

    rate = optimizers.learning_rate(optimizer, steps)
    tx = optimizers.make_optimizer(optimizer, rate)
    figures = []
    with jax.set_mesh(mesh):
        train_step = step.make_train_step(make_model, pretraining_loss, tx, rate, seed=seed, precision=precision)
        state = step.first_state(step.fresh_params(make_model, 0), tx)
        for _ in range(steps):
            state, on_device = train_step(state, step.to_mesh(batch, mesh))
            figures.append({name: float(x) for name, x in on_device.items()})
    dtypes = {x.dtype.name for x in jax.tree.leaves((state.params, state.opt_state)) if x.ndim}
    assert dtypes == {"float32"}  # of weights and of Adam's means, whatever the products are in
    return figures


def test_the_seed_and_the_step_change_the_dropout(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    still = OptimizerConfig(peak_lr=1e-30, warmup_steps=0)
    first, again, other = (run(model_config, batch, steps=2, seed=seed, optimizer=still) for seed in (0, 0, 1))
    assert first == again
    assert len({figures["loss"] for figures in first + other}) == 4
    c = dataclasses.replace(model_config, dropout=0.0, attention_dropout=0.0)
    without = [run(c, batch, steps=2, seed=seed, optimizer=still) for seed in (0, 1)]
    assert len({figures["loss"] for each in without for figures in each}) == 1  # nothing else changed it


def test_the_same_batch_is_learned(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    figures = run(model_config, batch, steps=30)
    assert figures[-1]["loss"] < figures[0]["loss"] - 0.5


def test_bfloat16_products_are_near_float32(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    exact, rounded = run(model_config, batch), run(model_config, batch, precision="bfloat16")
    assert rounded[0]["loss"] == pytest.approx(exact[0]["loss"], rel=1e-2)
    assert rounded[0]["loss"] != exact[0]["loss"]


def test_the_loss_is_a_mean_over_the_global_batch(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    """Rows with few predictions weigh as little as they should: the loss is not a mean of the rows' means."""
    c = ModelConfig(**{**vars(model_config), "dropout": 0.0, "attention_dropout": 0.0})
    whole = run(c, batch, steps=1)[0]
    rows = [run(c, {k: v[i : i + 1] for k, v in batch.items()}, steps=1)[0] for i in range(len(batch["ids"]))]
    weights = batch["weights"].sum(axis=1)
    mean = sum(w * row["mlm_loss"] for w, row in zip(weights, rows, strict=True)) / weights.sum()
    assert whole["mlm_loss"] == pytest.approx(mean, rel=1e-5)
    assert whole["mlm_loss"] != pytest.approx(np.mean([row["mlm_loss"] for row in rows]), rel=1e-4)


def test_a_step_takes_the_states_memory(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    c = Config(model=model_config, data=DataConfig(seq_len=16, max_predictions=3), optimizer=OPTIMIZER)
    with jax.set_mesh(mesh):
        made = make_pretraining(c, next_sentence=True)
        state = step.first_state(step.fresh_params(made.make_model, 0), made.optimizer)
        made.train_step(state, step.to_mesh(batch, mesh))
    assert all(x.is_deleted() for x in jax.tree.leaves((state.params, state.opt_state)) if x.ndim)


def test_figures_say_what_was_read(model_config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    figures = run(model_config, batch, steps=2)
    assert figures[0]["tokens"] == (batch["spans"] > 0).sum()
    assert [f["learning_rate"] for f in figures] == pytest.approx([1e-3, 0.5e-3])
    assert figures[0]["loss"] == pytest.approx(figures[0]["mlm_loss"] + figures[0]["nsp_loss"])

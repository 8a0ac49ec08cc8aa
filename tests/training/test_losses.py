"""Losses against NumPy, and that sums of parts are the whole."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bertjax import sharding
from bertjax.config import MeshConfig
from bertjax.training import losses, step

RNG = np.random.default_rng(0)
LOGITS = (RNG.normal(size=(8, 5, 128)) * 3).astype(np.float32)
LABELS = RNG.integers(0, 128, (8, 5)).astype(np.int32)
LABELS[0] = LOGITS[0].argmax(-1)
WEIGHTS = (RNG.random((8, 5)) < 0.6).astype(np.float32)


def numpy_means() -> tuple[float, float]:
    logits = LOGITS.astype(np.float64)
    loss = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, LABELS[..., None], -1)[..., 0]
    correct = logits.argmax(-1) == LABELS
    return (loss * WEIGHTS).sum() / WEIGHTS.sum(), (correct * WEIGHTS).sum() / WEIGHTS.sum()


def test_means_are_numpys() -> None:
    sums = losses.cross_entropy_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.asarray(WEIGHTS), "x_")
    assert step.total([sums]) == pytest.approx(dict(zip(("x_loss", "x_accuracy"), numpy_means(), strict=True)))
    assert float(losses.objective(sums)) == pytest.approx(numpy_means()[0])


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_means_do_not_depend_on_the_mesh(sizes: tuple[int, int, int]) -> None:
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    with jax.set_mesh(mesh):
        place = [jax.NamedSharding(mesh, spec) for spec in (sharding.LOGITS_BMV, sharding.ACT_B, sharding.ACT_B)]
        arguments = [jax.device_put(x, s) for x, s in zip((LOGITS, LABELS, WEIGHTS), place, strict=True)]
        sums = jax.jit(losses.cross_entropy_sums, static_argnums=3)(*arguments, "x_")
        assert jax.typeof(sums["x_loss"][0]).sharding.spec == P()
    assert step.total([sums]) == pytest.approx(dict(zip(("x_loss", "x_accuracy"), numpy_means(), strict=True)))


def test_sums_of_uneven_parts_are_the_whole() -> None:
    parts = [
        losses.cross_entropy_sums(jnp.asarray(LOGITS[i]), jnp.asarray(LABELS[i]), jnp.asarray(WEIGHTS[i]), "")
        for i in (slice(0, 1), slice(1, 5), slice(5, 8))
    ]
    assert step.total(parts) == pytest.approx(dict(zip(("loss", "accuracy"), numpy_means(), strict=True)))


def test_of_equal_logits_the_first_is_the_answer() -> None:
    logits = np.zeros((1, 3, 4), np.float32)
    logits[0, :, 1:3] = 1.0
    sums = losses.cross_entropy_sums(jnp.asarray(logits), jnp.array([[0, 1, 2]]), jnp.ones((1, 3)), "")
    assert float(sums["accuracy"][0]) == 1  # the label 1, and not 2


def test_no_weight_at_all_is_zero_and_not_nan() -> None:
    sums = losses.cross_entropy_sums(jnp.asarray(LOGITS), jnp.asarray(LABELS), jnp.zeros((8, 5)), "")
    assert float(losses.objective(sums)) == 0
    assert step.total([sums])["loss"] == 0

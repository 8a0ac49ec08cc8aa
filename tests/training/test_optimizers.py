"""The optimizers against a few lines of NumPy, and the learning rate at the places that matter."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bertjax import sharding
from bertjax.config import MeshConfig, ModelConfig, OptimizerConfig
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import optimizers, step

STEPS = 10
PARAMS = {"kernel": np.array([0.5, -2.0, 3.0], np.float32), "bias": np.array([1.0, -1.0], np.float32)}


def numpy_adamw(c: OptimizerConfig, grads: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    params = {k: v.astype(np.float64) for k, v in PARAMS.items()}
    m, v = ({k: np.zeros_like(p) for k, p in params.items()} for _ in range(2))
    for t, grad in enumerate(grads, start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grad.values()))
        lr = c.peak_lr * min(t / 4, (STEPS - t + 1) / (STEPS - 4), 1)
        for k in params:
            g = grad[k] * min(1, c.clip_norm / norm)
            m[k] = c.b1 * m[k] + (1 - c.b1) * g
            v[k] = c.b2 * v[k] + (1 - c.b2) * g**2
            correct = (1 - c.b1**t, 1 - c.b2**t) if c.bias_correction else (1, 1)
            update = (m[k] / correct[0]) / (np.sqrt(v[k] / correct[1]) + c.epsilon)
            params[k] -= lr * (update + (c.weight_decay * params[k] if k == "kernel" else 0))
    return params


@pytest.mark.parametrize("bias_correction", [True, False])
def test_adamw_is_that_of_ten_lines_of_numpy(bias_correction: bool) -> None:
    c = OptimizerConfig(peak_lr=0.1, warmup_steps=4, weight_decay=0.3, clip_norm=2.0, bias_correction=bias_correction)
    rng = np.random.default_rng(0)
    grads = [{k: (rng.normal(size=p.shape) * 2).astype(np.float32) for k, p in PARAMS.items()} for _ in range(STEPS)]
    tx = optimizers.make_optimizer(c, optimizers.learning_rate(c, STEPS))
    params: optax.Params = {k: jnp.asarray(v) for k, v in PARAMS.items()}
    state = tx.init(params)
    for grad in grads:
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    expected = numpy_adamw(c, grads)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=2e-5)


def test_lamb_scales_each_layers_matrices_by_themselves() -> None:
    """Against AdamW's update, computed for each matrix of an unstacked model and scaled by hand."""
    rng = np.random.default_rng(0)
    shapes = {"qkv": (2, 3, 4, 2, 2), "up": (2, 4, 6)}  # two layers; query, key and value
    blocks = {name: {"kernel": rng.normal(size=shape), "bias": rng.normal(size=2)} for name, shape in shapes.items()}
    params: Any = jax.tree.map(jnp.float32, {"encoder": {"blocks": blocks, "still": np.zeros((3, 3))}})
    grads = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
    c = OptimizerConfig(peak_lr=1.0, warmup_steps=0, weight_decay=0.3)

    def update(c: OptimizerConfig) -> Any:
        tx = optimizers.make_optimizer(c, optimizers.learning_rate(c, STEPS))
        return tx.update(grads, tx.init(params), params)[0]["encoder"]

    plain, lamb = update(c), update(dataclasses.replace(c, kind="lamb"))
    for name in shapes:
        np.testing.assert_array_equal(lamb["blocks"][name]["bias"], plain["blocks"][name]["bias"])
        theirs, weights = np.array(plain["blocks"][name]["kernel"]), params["encoder"]["blocks"][name]["kernel"]
        for place in np.ndindex(shapes[name][: 2 if name == "qkv" else 1]):
            theirs[place] *= np.linalg.norm(weights[place]) / np.linalg.norm(theirs[place])
        np.testing.assert_allclose(lamb["blocks"][name]["kernel"], theirs, rtol=1e-5)
    np.testing.assert_array_equal(lamb["still"], plain["still"])  # weights that are 0 would never move


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_leading_axes_are_layers_and_query_key_and_value(family: Any) -> None:
    """Where LAMB tells matrices apart; other weights of a block are one matrix each."""
    c = ModelConfig(family=family, vocab_size=50, width=16, layers=LAYERS, heads=4, mlp_width=32, max_positions=8)
    with jax.set_mesh(sharding.make_mesh(MeshConfig(), jax.devices()[:1])):
        abstract: Any = step.abstract_state(lambda rngs: BertForPretraining(c, rngs=rngs), optax.identity()).params
    assert abstract["encoder"]["blocks"]["qkv"]["kernel"].shape == (LAYERS, 3, 16, 4, 4)


def test_a_stable_rate_stays_and_falls_at_the_end() -> None:
    c = OptimizerConfig(peak_lr=2.0, warmup_steps=4, schedule="stable", decay_steps=4)
    rates = [float(optimizers.learning_rate(c, steps=20)(count)) for count in range(21)]
    np.testing.assert_allclose(rates[:4], [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(rates[4:17], 2.0)
    np.testing.assert_allclose(rates[17:], [2 * (1 - k**0.5) for k in (0.25, 0.5, 0.75, 1.0)], atol=1e-6)


def test_learning_rate_rises_to_the_peak_and_falls_and_no_update_is_wasted() -> None:
    rate = optimizers.learning_rate(OptimizerConfig(peak_lr=2.0, warmup_steps=4), steps=12)
    rates = [float(rate(count)) for count in range(12)]
    np.testing.assert_allclose(rates[:5], [0.5, 1.0, 1.5, 2.0, 2.0])
    np.testing.assert_allclose(np.diff(rates[4:]), -0.25)
    assert rates[-1] == pytest.approx(0.25)
    assert float(rate(12)) == 0


def test_the_usual_warm_up_is_a_tenth() -> None:
    rate = optimizers.learning_rate(OptimizerConfig(peak_lr=1.0, warmup_steps=None), steps=50)
    assert [float(rate(count)) for count in (0, 4)] == pytest.approx([0.2, 1.0])


def test_without_warm_up_the_first_update_has_the_peak() -> None:
    assert float(optimizers.learning_rate(OptimizerConfig(peak_lr=3.0, warmup_steps=0), steps=5)(0)) == 3.0


def test_biases_and_layer_norm_do_not_decay() -> None:
    params = {"dense": {"kernel": 1.0, "bias": 1.0}, "norm": {"scale": 1.0, "bias": 1.0}, "embedding": 1.0}
    assert optimizers.decayed(params) == {
        "dense": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "embedding": True,
    }


LAYERS = 3


@pytest.fixture(scope="module", params=[(1, 1, 1), (1, 2, 4)])
def params(request: pytest.FixtureRequest) -> Any:
    """A model's weights, on one device and cut over eight."""
    c = ModelConfig(vocab_size=50, width=16, layers=LAYERS, heads=4, mlp_width=32, max_positions=8)
    sizes = request.param
    mesh = sharding.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        yield step.fresh_params(lambda rngs: BertForPretraining(c, rngs=rngs), 0)


def named_updates(tx: optax.GradientTransformation, params: Any, grads: Any) -> dict[str, np.ndarray]:
    """Returns the second update, so that means are in it."""
    update = jax.jit(tx.update)
    _, state = update(grads, tx.init(params), params)
    updates, _ = update(grads, state, params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(x) for path, x in leaves}


def test_each_layer_down_learns_by_a_factor_less(params: Any) -> None:
    grads = jax.tree.map(lambda x: jnp.sin(x * 1e4), params)
    whole, less = (
        named_updates(
            optimizers.make_optimizer(OptimizerConfig(weight_decay=0.3, layer_decay=d), lambda _: 1e-4), params, grads
        )
        for d in (1.0, 0.5)
    )
    for name, update in whole.items():
        if ".blocks." in name:
            factors = np.array([0.5**3, 0.5**2, 0.5]).reshape(LAYERS, *[1] * (update.ndim - 1))
        else:
            factors = np.array(0.5**4 if ".embeddings." in name else 1)
        np.testing.assert_array_equal(less[name], update * factors)  # exact: powers of two


def test_frozen_layers_keep_every_bit_and_do_not_touch_the_others(params: Any) -> None:
    params = jax.tree.map(lambda x: jnp.where(x == 0, -0.0, x), params)
    grads = jax.tree.map(lambda x: jnp.sin(x * 1e4) + 1, params)
    steeper = jax.tree.map_with_path(lambda path, g: g * (1 + 99 * ("embeddings" in str(path))), grads)
    tx = optimizers.make_optimizer(OptimizerConfig(weight_decay=0.3, clip_norm=0.1), lambda _: 1e-4)
    updates, same = (named_updates(optimizers.freeze(tx, 2), params, g) for g in (grads, steeper))
    for (name, update), before in zip(updates.items(), map(np.asarray, jax.tree.leaves(params)), strict=True):
        frozen = slice(None) if ".embeddings." in name else slice(2 if ".blocks." in name else 0)
        assert (before + update)[frozen].tobytes() == before[frozen].tobytes()
        assert np.all(update[2 if ".blocks." in name else 0 :]) or ".embeddings." in name
        np.testing.assert_array_equal(update, same[name])

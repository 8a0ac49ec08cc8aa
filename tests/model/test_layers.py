from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from bertjax.config import MeshConfig
from bertjax.model import layers
from bertjax.sharding import BATCH, make_mesh
from tests.model import tiny

ONES = jnp.ones((8, 50, 101))  # an odd width: some of the last words go unused


def test_dropout_depends_on_the_key_alone() -> None:
    first = layers.dropout(ONES, 0.3, jax.random.key(0))
    np.testing.assert_array_equal(first, layers.dropout(ONES, 0.3, jax.random.key(0)))
    assert jnp.any(first != layers.dropout(ONES, 0.3, jax.random.key(1)))


@pytest.mark.parametrize("prng", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share(rate: float, prng: str) -> None:
    dropped = np.asarray(layers.dropout(ONES, rate, jax.random.key(0, impl=prng)) == 0)
    deviation = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs(dropped.mean() - rate) < 4 * deviation


@pytest.mark.parametrize("prng", ["threefry2x32", "rbg"])
def test_dropout_decides_each_element_by_itself(prng: str) -> None:
    """Neighbours, and the four that a pair of random words decides, agree as often as independent draws do."""
    drawn = np.asarray(layers.dropout(ONES[..., :100], 0.5, jax.random.key(0, impl=prng)) == 0)
    neighbours = [(drawn[..., 1:], drawn[..., :-1]), (drawn[:, 1:], drawn[:, :-1]), (drawn[1:], drawn[:-1])]
    for a, b in [*neighbours, *itertools.combinations(np.split(drawn, 4, axis=-1), 2)]:
        assert abs((a == b).mean() - 0.5) < 4 * 0.5 / np.sqrt(a.size)


@pytest.mark.parametrize("prng", ["threefry2x32", "rbg"])
def test_dropout_of_what_is_cut_along_its_last_axis_stays_where_it_is(prng: str) -> None:
    """Six columns over three devices: each has two, which no quarter of an axis would divide."""
    mesh = make_mesh(MeshConfig(data=2, model=3), jax.devices()[:6])
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((4, 50, 6)), P(BATCH, None, "model"))
        drop = jax.jit(functools.partial(layers.dropout, rate=0.5)).lower(x, key=jax.random.key(0, impl=prng)).compile()
        dropped = drop(x, key=jax.random.key(0, impl=prng))
        assert dropped.sharding.spec == x.sharding.spec
        assert abs(float((dropped == 0).mean()) - 0.5) < 4 * 0.5 / np.sqrt(x.size)
    assert prng != "threefry2x32" or not re.search("all-to-all|collective|all-gather", drop.as_text() or "")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_keeps_the_mean(dtype: jnp.dtype) -> None:
    """What is kept is scaled by the exact share, as precisely as the type can say it."""
    kept = layers.dropout(jnp.full(8, 5.5, dtype), 0.1, jax.random.key(2))
    exact = jnp.array(5.5 * 65536 / (65536 - 6554), dtype)
    np.testing.assert_array_equal(kept[kept != 0], exact)
    assert kept.dtype == dtype


@pytest.mark.parametrize(("rate", "key"), [(0.5, None), (0.0, jax.random.key(0)), (1e-6, jax.random.key(0))])
def test_no_key_or_no_rate_is_no_dropout(rate: float, key: jax.Array | None) -> None:
    assert layers.dropout(ONES, rate, key) is ONES


def test_layer_norm_is_exact_far_from_zero() -> None:
    x_BD = np.random.default_rng(0).normal(1000.0, 1.0, (4, 32)).astype(np.float32)
    wide = x_BD.astype(np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(layers.LayerNorm(tiny.CONFIG, rngs=nnx.Rngs(0))(jnp.array(x_BD)), wanted, atol=2e-4)


def test_layer_norm_uses_the_configured_epsilon() -> None:
    c = dataclasses.replace(tiny.CONFIG, norm_epsilon=1.0)
    x_BD = jnp.tile(jnp.array([[-1.0, 1.0]]), (1, 16))
    np.testing.assert_allclose(layers.LayerNorm(c, rngs=nnx.Rngs(0))(x_BD), x_BD / np.sqrt(2), rtol=1e-6)


def test_layer_norm_computes_in_float32_and_answers_in_the_type_it_was_asked_in() -> None:
    norm = layers.LayerNorm(tiny.CONFIG, rngs=nnx.Rngs(0))
    x_BD = jax.random.normal(jax.random.key(0), (4, 32), jnp.bfloat16)
    assert norm(x_BD).dtype == jnp.bfloat16
    np.testing.assert_array_equal(norm(x_BD), norm(x_BD.astype(jnp.float32)).astype(jnp.bfloat16))


def test_dense_layers_compute_in_the_type_of_their_kernel() -> None:
    dense = nnx.Linear(32, 8, **layers.weights(tiny.CONFIG, P()), rngs=nnx.Rngs(0))
    dense.kernel = nnx.Param(dense.kernel[...].astype(jnp.bfloat16))
    assert dense.bias is not None
    assert dense.bias.dtype == jnp.float32
    assert dense(jnp.ones((4, 32))).dtype == jnp.bfloat16


def test_weights_start_from_a_normal_cut_at_two_deviations() -> None:
    x = np.asarray(layers.initializer(tiny.CONFIG, P())(jax.random.key(0), (200, 200)))
    assert np.abs(x).max() <= 2 * tiny.CONFIG.init_std
    assert np.abs(x).max() > 1.99 * tiny.CONFIG.init_std
    # 0.8796 is the deviation of a standard normal cut at two.
    np.testing.assert_allclose(x.std(), 0.8796 * tiny.CONFIG.init_std, rtol=0.01)
    np.testing.assert_allclose(x.mean(), 0, atol=4 * tiny.CONFIG.init_std / 200)


@pytest.mark.parametrize(("form", "at_one"), [("exact", 0.8413447), ("tanh", 0.8411920)])
def test_gelu_is_the_form_the_config_names(form: Any, at_one: float) -> None:
    c = dataclasses.replace(tiny.CONFIG, gelu=form)
    np.testing.assert_allclose(layers.gelu(jnp.ones(()), c), at_one, rtol=1e-6)


def test_a_rows_gradient_is_added_up_in_float32() -> None:
    """In bfloat16 a sum of ones stays at 256."""
    table_VD = jnp.ones((3, 2), jnp.bfloat16)
    ids_BS = jnp.ones((16, 300), jnp.int32).at[0, 0].set(2)

    def summed(table_VD: jax.Array) -> jax.Array:
        return jnp.sum(layers.look_up(table_VD, ids_BS).astype(jnp.float32))

    gradient_VD = jax.grad(summed)(table_VD)
    assert gradient_VD.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient_VD, np.repeat([[0.0], [4800.0], [1.0]], 2, axis=1))

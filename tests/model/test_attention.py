from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.model.attention import attention, softmax

SPANS_BS = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], np.int32)


def random_qkv() -> tuple[jax.Array, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    q_BSHK, k_BTHK, v_BTHK = (jnp.array(rng.normal(size=(3, 6, 4, 8)), jnp.float32) for _ in range(3))
    return q_BSHK, k_BTHK, v_BTHK


def test_agrees_with_attention_written_out() -> None:
    q_BSHK, k_BTHK, v_BTHK = (np.asarray(x, np.float64) for x in random_qkv())
    wanted_BSHK = np.zeros_like(q_BSHK)
    for b, s, h in np.ndindex(q_BSHK.shape[:3]):
        seen = [t for t in range(6) if SPANS_BS[b, t] == SPANS_BS[b, s]]
        weights = np.exp([q_BSHK[b, s, h] @ k_BTHK[b, t, h] / np.sqrt(8) for t in seen])
        wanted_BSHK[b, s, h] = weights / weights.sum() @ v_BTHK[b, seen, h]
    o_BSHK = attention(*random_qkv(), jnp.array(SPANS_BS), dropout=0.1, key=None)
    np.testing.assert_allclose(o_BSHK, wanted_BSHK, atol=1e-6)


def test_softmax_is_computed_in_float32() -> None:
    """Two logits that bfloat16 cannot tell apart, far from zero, still get different weights."""
    q_BSHK = jnp.zeros((1, 2, 1, 4), jnp.bfloat16).at[..., 0].set(16).at[..., 1].set(0.0625)
    k_BTHK = jnp.zeros((1, 2, 1, 4), jnp.bfloat16).at[..., 0].set(16).at[0, 1, 0, 1].set(4)
    v_BTHK = jnp.zeros((1, 2, 1, 4), jnp.bfloat16).at[0, 1].set(1)
    o_BSHK = attention(q_BSHK, k_BTHK, v_BTHK, jnp.ones((1, 2), jnp.int32), dropout=0.0, key=None)
    assert o_BSHK.dtype == jnp.bfloat16
    np.testing.assert_allclose(o_BSHK.astype(jnp.float32), 1 / (1 + np.exp(-0.125)), rtol=4e-3)


def test_softmax_has_its_derivative() -> None:
    """Also of a row whose logits are all masked, and of a weight that is 0."""
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(size=(5, 7)), jnp.float32).at[1].set(-1e9).at[2, 3].set(-1e9)
    change = jnp.array(rng.normal(size=(5, 7)), jnp.float32)
    weights, wanted = jax.jvp(jax.nn.softmax, (logits,), (change,))
    ours, found = jax.jvp(lambda x: softmax(x, jnp.float32), (logits,), (change,))
    np.testing.assert_array_equal(ours, weights)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    transposed = jax.vjp(lambda x: softmax(x, jnp.float32), logits)[1](change)[0]
    np.testing.assert_allclose(transposed, wanted, atol=1e-6)  # the matrix of derivatives is symmetric
    _, rough = jax.jvp(lambda x: softmax(x, jnp.bfloat16), (logits,), (change,))
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), wanted, atol=1e-2)


def test_dropout_zeroes_weights_and_scales_the_others() -> None:
    q_BSHK, k_BTHK, _ = random_qkv()
    whole_BSHK = jnp.ones((3, 6, 4, 8))
    spans_BS = jnp.ones((3, 6), jnp.int32)

    @jax.jit
    @jax.vmap
    def attend(key: jax.Array) -> jax.Array:
        return attention(q_BSHK, k_BTHK, whole_BSHK, spans_BS, dropout=0.5, key=key)

    dropped = attend(jax.random.split(jax.random.key(0), 200))
    assert np.std(dropped) > 0.1
    np.testing.assert_allclose(np.mean(dropped), 1, atol=0.02)

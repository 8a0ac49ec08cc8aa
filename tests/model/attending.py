"""What the tests of attention attend to, and what they compare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Arrays = tuple[jax.Array, ...]


def lengths_to_spans(rows: list[list[int]], positions: int) -> jax.Array:
    """Returns spans_BS of rows that hold spans of these lengths, and then padding."""
    numbered = [np.repeat(np.arange(1, len(row) + 1), row) for row in rows]
    return jnp.array([np.pad(numbers, (0, positions - len(numbers))) for numbers in numbered], jnp.int32)


def random_inputs(spans_BS: jax.Array, dtype: Any = jnp.float32, head_width: int = 16) -> Arrays:
    """Returns (q_BSHK, k_BTHK, v_BTHK, spans_BS, weights_BSHK); the last are 0 on padding, which nothing reads."""
    rng = np.random.default_rng(0)
    shape = (*spans_BS.shape, 2, head_width)
    q_BSHK, k_BTHK, v_BTHK, weights_BSHK = (jnp.array(rng.normal(size=shape), dtype) for _ in range(4))
    return q_BSHK, k_BTHK, v_BTHK, spans_BS, weights_BSHK * (spans_BS > 0)[:, :, None, None]


def averages_and_gradients(attend: Callable[..., jax.Array], inputs: Arrays) -> tuple[jax.Array, Arrays]:
    """Returns o_BSHK, 0 on padding, and the gradients by q, k and v of a weighted sum of it."""
    *qkv, spans_BS, weights_BSHK = inputs

    def weighted(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        o_BSHK = attend(*qkv, spans_BS).astype(jnp.float32)
        return jnp.sum(o_BSHK * weights_BSHK), o_BSHK * (spans_BS > 0)[:, :, None, None]

    (_, o_BSHK), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))(*qkv)
    return o_BSHK, gradients

"""ModernBERT's embeddings and block (Warner et al. 2024): rotary positions, gated GELU, LayerNorm first, no biases.

Attention is global in every `global_every`-th layer from the first on, and local in the others.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.model import layers
from bertjax.model.attention import attention
from bertjax.sharding import ACT_B, ACT_BSNF, DOWN_FD, EMBED_VD, OUT_HKD, QKV_NDHK, UP_DNF


class Embeddings(nnx.Module):
    """Token embeddings, normalized; positions come in with the rotations, and there are no segments."""

    def __init__(self, c: ModelConfig, rows: int, *, rngs: nnx.Rngs):
        self.token = layers.Embed(c, rows, EMBED_VD, rngs=rngs)
        self.norm = layers.LayerNorm(c, rngs=rngs)
        self.c = c

    def __call__(
        self, ids_BS: jax.Array, _segments_BS: jax.Array, _positions_BS: jax.Array, *, key: jax.Array | None
    ) -> jax.Array:
        """Returns x_BSD; NaN where an id is beyond the table."""
        return layers.dropout(self.norm(self.token(ids_BS)), self.c.dropout, key)


class Block(nnx.Module):
    """Pre-LayerNorm block; in the first layer attention reads the embeddings, which are normalized already."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        head_width = c.width // c.heads
        self.attention_norm = layers.LayerNorm(c, rngs=rngs)
        self.qkv = nnx.Einsum(
            "BSD,NDHK->BSNHK", (3, c.width, c.heads, head_width), **layers.weights(c, QKV_NDHK), rngs=rngs
        )
        self.out = nnx.Einsum("BSHK,HKD->BSD", (c.heads, head_width, c.width), **layers.weights(c, OUT_HKD), rngs=rngs)
        self.mlp_norm = layers.LayerNorm(c, rngs=rngs)
        self.up = nnx.Einsum("BSD,DNF->BSNF", (c.width, 2, c.mlp_width), **layers.weights(c, UP_DNF), rngs=rngs)
        self.down = nnx.Linear(c.mlp_width, c.width, use_bias=False, **layers.weights(c, DOWN_FD), rngs=rngs)
        self.c = c

    def attention_inputs(self, x_BSD: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Returns (q_BSHK, k_BSHK, v_BSHK, reach), what `attention` takes, queries and keys rotated."""
        c, positions = self.c, x_BSD.shape[1]
        is_global = layer % c.global_every == 0
        read_BSD = jnp.where(layer == 0, x_BSD, self.attention_norm(x_BSD))
        q_BSHK, k_BSHK, v_BSHK = layers.projections(read_BSD, self.qkv)
        far, near = (rotations(positions, c.width // c.heads, theta) for theta in (c.rope_theta, c.local_rope_theta))
        cos_SK, sin_SK = jnp.where(is_global, far, near)
        reach = jnp.where(is_global, positions, c.local_window // 2)
        return rotated(q_BSHK, cos_SK, sin_SK), rotated(k_BSHK, cos_SK, sin_SK), v_BSHK, reach

    def __call__(
        self,
        x_BSD: jax.Array,
        spans_BS: jax.Array,
        layer: jax.Array,
        *,
        key: jax.Array | None,
        most_spans: int | None = None,
    ) -> jax.Array:
        """Returns x_BSD one layer on; `layer` is its number, from 0."""
        weights_key, attention_key, mlp_key = layers.split(key, 3)
        c = self.c
        q_BSHK, k_BSHK, v_BSHK, reach = self.attention_inputs(x_BSD, layer)
        how: dict[str, Any] = {"dropout": c.attention_dropout, "kernel": c.attention, "most_spans": most_spans}
        o_BSHK = attention(q_BSHK, k_BSHK, v_BSHK, spans_BS, key=weights_key, reach=reach, **how)
        o_BSD = self.out(o_BSHK, out_sharding=ACT_B)
        x_BSD = x_BSD + layers.dropout(o_BSD, c.attention_dropout, attention_key)
        h_BSF, gate_BSF = jnp.unstack(self.up(self.mlp_norm(x_BSD), out_sharding=ACT_BSNF), axis=2)
        h_BSF = layers.dropout(layers.gelu(h_BSF, c) * gate_BSF, c.dropout, mlp_key)
        return x_BSD + self.down(h_BSF, out_sharding=ACT_B)


def rotations(positions: int, head_width: int, theta: float) -> np.ndarray:
    """Returns (cos_SK, sin_SK) of the angles by which queries and keys are turned at each position.

    Positions of a row do, also when it is packed: only their differences within a span count.
    Source: Su et al. 2021, section 3.2, with the pairs half the width apart.
    """
    frequencies = 1.0 / np.float32(theta) ** (np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width))
    angles = np.tile(np.arange(positions, dtype=np.float32)[:, None] * frequencies, 2)
    return np.stack([np.cos(angles), np.sin(angles)])


def rotated(x_BSHK: jax.Array, cos_SK: jax.Array, sin_SK: jax.Array) -> jax.Array:
    """Returns x_BSHK turned by the angles; computed in float32."""
    first, second = jnp.split(x_BSHK.astype(jnp.float32), 2, axis=-1)
    turned_BSHK = jnp.concatenate([-second, first], axis=-1)
    cos, sin = cos_SK[None, :, None], sin_SK[None, :, None]
    return (x_BSHK * cos + turned_BSHK * sin).astype(x_BSHK.dtype)

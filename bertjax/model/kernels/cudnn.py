"""Attention by cuDNN, compared with the reference and timed on an H200 (docs/log.md)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

PRIMITIVE = "dot_product_attention_fwd_wrapper"  # JAX's, for cuDNN's forward pass


def keeps_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """By which rematerialisation knows what cuDNN's forward pass gives the backward pass: those sums have no name."""
    return bool(primitive.name == PRIMITIVE)


def attend(
    q_BSHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, spans_BS: jax.Array, most_spans: int | None = 1
) -> jax.Array:
    """Returns o_BSHK by cuDNN; what padding gets is not the reference's.

    In rows of one span padding sees that, and in a row without one the first position: that stays finite, and nothing
    reads it. In packed rows padding gets 0.
    """
    if most_spans != 1:
        return _cudnn_of_packed(q_BSHK, k_BTHK, v_BTHK, spans_BS, most_spans or 0)
    lengths_B = jnp.maximum(jnp.sum(spans_BS > 0, axis=1, dtype=jnp.int32), 1)
    return jax.nn.dot_product_attention(q_BSHK, k_BTHK, v_BTHK, key_value_seq_lengths=lengths_B, implementation="cudnn")


def _cudnn_of_packed(
    q_BSHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, spans_BS: jax.Array, most_spans: int
) -> jax.Array:
    """Returns o_BSHK of rows with up to P = `most_spans`; JAX has no public name for it yet."""
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    lengths_BP, starts_BQ = lengths_and_starts(spans_BS, most_spans)
    # cuDNN neither reads nor writes padding: what lies there, also in the gradients, is not even always finite.
    inside_BS11 = (spans_BS > 0)[:, :, None, None]
    q_BSHK, k_BTHK, v_BTHK = (jnp.where(inside_BS11, x, 0) for x in (q_BSHK, k_BTHK, v_BTHK))
    o_BSHK: jax.Array = dot_product_attention(
        q_BSHK,
        k_BTHK,
        v_BTHK,
        q_seqlen=lengths_BP,
        kv_seqlen=lengths_BP,
        q_offsets=starts_BQ,
        kv_offsets=starts_BQ,
        scale=q_BSHK.shape[3] ** -0.5,
        mask_type=MaskType.PADDING,
    )
    return jnp.where(inside_BS11, o_BSHK, 0)


def lengths_and_starts(spans_BS: jax.Array, most_spans: int) -> tuple[jax.Array, jax.Array]:
    """Returns lengths_BP of spans that follow each other, and starts_BQ in the row, Q = P + 1.

    What there is not is -1: so JAX wants them for cuDNN's packed layout.
    """
    numbers_P = jnp.arange(1, most_spans + 1)
    lengths_BP = jnp.sum(spans_BS[:, :, None] == numbers_P[None, None], axis=1, dtype=jnp.int32)
    ends_BP = jnp.cumsum(lengths_BP, axis=1, dtype=jnp.int32)
    there_BP = lengths_BP > 0
    starts_BP = jnp.where(there_BP, ends_BP - lengths_BP, -1)
    return jnp.where(there_BP, lengths_BP, -1), jnp.pad(starts_BP, ((0, 0), (0, 1)), constant_values=-1)

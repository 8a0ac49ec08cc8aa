"""Attention: the one place that chooses how it is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bertjax.model import layers


def attention(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    *,
    dropout: float,
    key: jax.Array | None,
    reach: jax.Array | None = None,
) -> jax.Array:
    """Returns o_BSHK, the values averaged by scaled dot products over the positions of the same span.

    With `reach` (int32, a scalar) only over those at most that many positions away.

    Softmax is computed in float32. Padding (span 0) sees padding, so that its rows stay finite; nothing else sees it.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    weights_BHST = attention_weights(q_BSHK, k_BTHK, spans_BS, reach=reach).astype(v_BTHK.dtype)
    weights_BHST = layers.dropout(weights_BHST, dropout, key)
    return jnp.einsum("BHST,BTHK->BSHK", weights_BHST, v_BTHK)


def attention_weights(
    q_BSHK: jax.Array, k_BTHK: jax.Array, spans_BS: jax.Array, *, reach: jax.Array | None = None
) -> jax.Array:
    """Returns weights_BHST, float32: each position t's share in the average that s gets; they sum to 1 over t."""
    keep_BST = spans_BS[:, :, None] == spans_BS[:, None, :]
    if reach is not None:
        places = jnp.arange(spans_BS.shape[1])
        keep_BST = keep_BST & (jnp.abs(places[:, None] - places[None, :]) <= reach)[None]
    logits_BHST = jnp.einsum("BSHK,BTHK->BHST", q_BSHK, k_BTHK, preferred_element_type=jnp.float32)
    logits_BHST = jnp.where(keep_BST[:, None], logits_BHST * q_BSHK.shape[-1] ** -0.5, layers.LARGE_NEGATIVE)
    return jax.nn.softmax(logits_BHST)

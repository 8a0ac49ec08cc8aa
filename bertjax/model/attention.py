"""Attention: the one place that chooses how it is computed."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from bertjax import sharding
from bertjax.model import kernels, layers
from bertjax.model.layers import PRODUCTS


def attention(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    *,
    dropout: float,
    key: jax.Array | None,
    reach: jax.Array | None = None,
    kernel: Literal["auto"] | kernels.Kernel = "xla",
    most_spans: int | None = None,
) -> jax.Array:
    """Returns o_BSHK, the values averaged by scaled dot products over the positions of the same span.

    With `reach` (int32, a scalar) only over those at most that many positions away.

    A `kernel` that cannot compute this gives way to the reference, "xla". Rows with `most_spans` have at most so many,
    one after the other from the first position on, and then padding. Softmax is computed in float32. Padding (span 0)
    sees padding, or what else keeps its rows finite; nothing else sees it.
    Source: Vaswani et al. 2017, section 3.2.1.
    """
    case = kernels.Case(
        *sharding.device_of(jax.sharding.get_abstract_mesh()),
        positions=q_BSHK.shape[1],
        head_width=q_BSHK.shape[3],
        dtype=q_BSHK.dtype.name,
        dropout=dropout,  # also where key is None: evaluation is computed as the training that it is about
        most_spans=most_spans,
        local=reach is not None,
    )
    if (chosen := kernels.choose(kernel, case)) != "xla":
        keep_BHST = _draw_kept(q_BSHK, k_BTHK, dropout, key) if chosen == "triton" else None
        how: dict[str, Any] = {"most_spans": most_spans, "kept_scale": layers.kept_scale(dropout)}
        return kernels.attend(chosen, q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST, **how)
    weights_BHST = attention_weights(q_BSHK, k_BTHK, spans_BS, reach=reach, dtype=v_BTHK.dtype)
    weights_BHST = layers.dropout(weights_BHST, dropout, key)
    return checkpoint_name(jnp.einsum("BHST,BTHK->BSHK", weights_BHST, v_BTHK), PRODUCTS)


def _draw_kept(q_BSHK: jax.Array, k_BTHK: jax.Array, rate: float, key: jax.Array | None) -> jax.Array | None:
    """Returns keep_BHST, what layers.dropout would keep of the weights that a kernel does not show."""
    cut = jax.typeof(q_BSHK).sharding
    rows, positions, heads, _ = cut.spec
    shape_BHST = (q_BSHK.shape[0], q_BSHK.shape[2], q_BSHK.shape[1], k_BTHK.shape[1])
    return layers.draw_kept(shape_BHST, rate, key, cut.update(spec=P(rows, heads, positions, None)))


def attention_weights(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    spans_BS: jax.Array,
    *,
    reach: jax.Array | None = None,
    dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
    """Returns weights_BHST: each position t's share in the average that s gets; they sum to 1 over t."""
    keep_BST = spans_BS[:, :, None] == spans_BS[:, None, :]
    if reach is not None:
        places = jnp.arange(spans_BS.shape[1])
        keep_BST = keep_BST & (jnp.abs(places[:, None] - places[None, :]) <= reach)[None]
    logits_BHST = jnp.einsum("BSHK,BTHK->BHST", q_BSHK, k_BTHK, preferred_element_type=jnp.float32)
    logits_BHST = jnp.where(keep_BST[:, None], logits_BHST * q_BSHK.shape[-1] ** -0.5, layers.LARGE_NEGATIVE)
    return softmax(logits_BHST, dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def softmax(logits: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the softmax over the last axis in `dtype`, computed in that of the logits.

    Its derivative is written out, because it needs nothing but the result: half of the memory where that is bfloat16.
    """
    return jax.nn.softmax(logits).astype(dtype)


@softmax.defjvp
def _softmax_jvp(
    dtype: jax.typing.DTypeLike, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (logits,), (change,) = primals, tangents
    rounded = checkpoint_name(softmax(logits, dtype), PRODUCTS)
    weights = rounded.astype(logits.dtype)
    change = weights * (change - jnp.sum(weights * change, axis=-1, keepdims=True))
    return rounded, change.astype(dtype)

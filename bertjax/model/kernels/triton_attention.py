"""Attention within spans that drops weights without ever holding them: in Triton, for NVIDIA GPUs. Unmeasured.

XLA writes logits, weights and dropped weights to memory and reads them again, forward and backward; here they stay in
registers. The backward pass computes the weights once more, from the logarithm of the sums that the forward pass left.

Tiles are named by their dimensions: Q queries and T keys of a block, K head width.
Source: Dao 2023, FlashAttention-2, algorithms 1 and 2, and for dropout Dao et al. 2022, FlashAttention, appendix B.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax_triton
import triton
import triton.language as tl
from jax.ad_checkpoint import checkpoint_name

from bertjax.model.layers import LARGE_NEGATIVE, PRODUCTS

BLOCKS = (64, 32, 16)  # positions of a block, the largest that divides the row: what registers hold
WHOLE_ROW = 128  # positions that are one block all the same, of twice the warps: what it reads it then reads once

_NEGATIVE = tl.constexpr(LARGE_NEGATIVE)
_LOG2_E = tl.constexpr(math.log2(math.e))  # exponentials are quicker as powers of 2

Kept = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attend(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    keep_BHST: jax.Array | None,
    kept_scale: float,
) -> jax.Array:
    """Returns o_BSHK by the weights that are kept, times `kept_scale`.

    Without `keep_BHST` nothing is dropped and nothing scaled. Attention is within spans, and padding within padding, as
    the reference's is.
    """
    return _attend_and_keep(q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST, kept_scale)[0]


def _attend_and_keep(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    keep_BHST: jax.Array | None,
    kept_scale: float,
) -> tuple[jax.Array, Kept]:
    rows, positions, heads, _ = q_BSHK.shape
    results = jax_triton.triton_call(
        q_BSHK,
        k_BTHK,
        v_BTHK,
        spans_BS,
        keep_BHST,
        kernel=forward,
        name="attention_forward",
        out_type=(q_BSHK, jax.ShapeDtypeStruct((rows, heads, positions), jnp.float32)),
        **launch(q_BSHK.shape),
        **constants(q_BSHK.shape, kept_scale),
    )
    o_BSHK, level_BHS = (checkpoint_name(x, PRODUCTS) for x in results)
    return o_BSHK, (q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST, o_BSHK, level_BHS)


def _gradients(kept_scale: float, kept: Kept, do_BSHK: jax.Array) -> tuple[jax.Array | None, ...]:
    dq_BSHK, dk_BTHK, dv_BTHK = jax_triton.triton_call(
        *kept,
        do_BSHK,
        kernel=backward,
        name="attention_backward",
        out_type=kept[:3],
        **launch(do_BSHK.shape),
        **constants(do_BSHK.shape, kept_scale),
    )
    return dq_BSHK, dk_BTHK, dv_BTHK, None, None


attend.defvjp(_attend_and_keep, _gradients)


def launch(shape_BSHK: tuple[int, ...]) -> dict[str, Any]:
    """Returns how many programs there are, one for each block of a head of a row, and of how many warps."""
    rows, positions, heads, _ = shape_BSHK
    block = _block(positions)
    return {"grid": (rows * heads, positions // block), "num_warps": 8 if block == WHOLE_ROW else 4, "num_stages": 2}


def constants(shape_BSHK: tuple[int, ...], kept_scale: float) -> dict[str, Any]:
    """Returns what the kernels are compiled for."""
    _, positions, heads, head_width = shape_BSHK
    return {
        "positions": positions,
        "heads": heads,
        "head_width": head_width,
        "block": _block(positions),
        "scale": head_width**-0.5,
        "kept_scale": kept_scale,
    }


def _block(positions: int) -> int:
    return WHOLE_ROW if positions == WHOLE_ROW else next(size for size in BLOCKS if positions % size == 0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def forward(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    spans_ptr,
    keep_ptr,
    o_ptr,
    level_ptr,
    positions: tl.constexpr,
    heads: tl.constexpr,
    head_width: tl.constexpr,
    block: tl.constexpr,
    scale: tl.constexpr,
    kept_scale: tl.constexpr,
):
    """Writes the averages of a block of queries, and for each query the level: log2 of the sum of its exponentials."""
    first, stride, row, head = _places(positions, heads, head_width)
    if keep_ptr is not None:
        keep_ptr += (row * heads + head) * positions * positions
    lane_K = tl.arange(0, head_width)
    query_Q = tl.program_id(1) * block + tl.arange(0, block)
    query_QK = first + query_Q[:, None] * stride + lane_K[None, :]
    q_QK = tl.load(q_ptr + query_QK)
    span_Q = tl.load(spans_ptr + row * positions + query_Q)
    top_Q = tl.full([block], -float("inf"), tl.float32)
    sum_Q = tl.zeros([block], tl.float32)
    o_QK = tl.zeros([block, head_width], tl.float32)
    for start in range(0, positions, block):
        key_T = start + tl.arange(0, block)
        key_TK = first + key_T[:, None] * stride + lane_K[None, :]
        same_QT = span_Q[:, None] == tl.load(spans_ptr + row * positions + key_T)[None, :]
        logits_QT = tl.where(same_QT, tl.dot(q_QK, tl.trans(tl.load(k_ptr + key_TK))) * (scale * _LOG2_E), _NEGATIVE)
        # All so far was relative to the largest logit so far.
        higher_Q = tl.maximum(top_Q, tl.max(logits_QT, 1))
        shrink_Q = tl.exp2(top_Q - higher_Q)
        weights_QT = tl.exp2(logits_QT - higher_Q[:, None])
        sum_Q = sum_Q * shrink_Q + tl.sum(weights_QT, 1)  # of all: dropout comes after the softmax
        if keep_ptr is not None:
            keep_QT = tl.load(keep_ptr + _pairs(query_Q, key_T, positions)) != 0
            weights_QT = tl.where(keep_QT, weights_QT, 0.0)
        v_TK = tl.load(v_ptr + key_TK)
        o_QK = tl.dot(weights_QT.to(v_TK.dtype), v_TK, o_QK * shrink_Q[:, None])
        top_Q = higher_Q
    o_QK /= sum_Q[:, None]
    if keep_ptr is not None:
        o_QK *= kept_scale
    tl.store(o_ptr + query_QK, o_QK.to(o_ptr.dtype.element_ty))
    tl.store(level_ptr + (row * heads + head) * positions + query_Q, top_Q + tl.log2(sum_Q))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def backward(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    spans_ptr,
    keep_ptr,
    o_ptr,
    level_ptr,
    do_ptr,
    dq_ptr,
    dk_ptr,
    dv_ptr,
    positions: tl.constexpr,
    heads: tl.constexpr,
    head_width: tl.constexpr,
    block: tl.constexpr,
    scale: tl.constexpr,
    kept_scale: tl.constexpr,
):
    """Writes the gradients of a block of keys and values from all queries, then those of its queries from all keys.

    A row of one block needs its weights once for both.
    """
    first, stride, row, head = _places(positions, heads, head_width)
    spans_ptr += row * positions
    level_ptr += (row * heads + head) * positions
    if keep_ptr is not None:
        keep_ptr += (row * heads + head) * positions * positions
    lane_K = tl.arange(0, head_width)
    own_Q = tl.program_id(1) * block + tl.arange(0, block)
    own_QK = first + own_Q[:, None] * stride + lane_K[None, :]
    own_span_Q = tl.load(spans_ptr + own_Q)

    k_TK = tl.load(k_ptr + own_QK)
    v_TK = tl.load(v_ptr + own_QK)
    dk_TK = tl.zeros([block, head_width], tl.float32)
    dv_TK = tl.zeros([block, head_width], tl.float32)
    for start in range(0, positions, block):
        query_Q = start + tl.arange(0, block)
        query_QK = first + query_Q[:, None] * stride + lane_K[None, :]
        q_QK = tl.load(q_ptr + query_QK)
        do_QK = tl.load(do_ptr + query_QK)
        same_QT = tl.load(spans_ptr + query_Q)[:, None] == own_span_Q[None, :]
        keep_QT = None if keep_ptr is None else tl.load(keep_ptr + _pairs(query_Q, own_Q, positions)) != 0
        weights_QT, dlogits_QT = _weights_and_gradients(
            q_QK, k_TK, v_TK, tl.load(o_ptr + query_QK), do_QK, tl.load(level_ptr + query_Q), same_QT, keep_QT,
            scale, kept_scale,
        )  # fmt: skip
        dv_TK = tl.dot(tl.trans(weights_QT), do_QK, dv_TK)
        dk_TK = tl.dot(tl.trans(dlogits_QT), q_QK, dk_TK)
        if positions == block:
            tl.store(dq_ptr + query_QK, (tl.dot(dlogits_QT, k_TK) * scale).to(dq_ptr.dtype.element_ty))
    tl.store(dk_ptr + own_QK, (dk_TK * scale).to(dk_ptr.dtype.element_ty))
    tl.store(dv_ptr + own_QK, dv_TK.to(dv_ptr.dtype.element_ty))

    if positions > block:
        q_QK = tl.load(q_ptr + own_QK)
        o_QK = tl.load(o_ptr + own_QK)
        do_QK = tl.load(do_ptr + own_QK)
        level_Q = tl.load(level_ptr + own_Q)
        dq_QK = tl.zeros([block, head_width], tl.float32)
        for start in range(0, positions, block):
            key_T = start + tl.arange(0, block)
            key_TK = first + key_T[:, None] * stride + lane_K[None, :]
            k_TK = tl.load(k_ptr + key_TK)
            same_QT = own_span_Q[:, None] == tl.load(spans_ptr + key_T)[None, :]
            keep_QT = None if keep_ptr is None else tl.load(keep_ptr + _pairs(own_Q, key_T, positions)) != 0
            _, dlogits_QT = _weights_and_gradients(
                q_QK, k_TK, tl.load(v_ptr + key_TK), o_QK, do_QK, level_Q, same_QT, keep_QT, scale, kept_scale
            )
            dq_QK = tl.dot(dlogits_QT, k_TK, dq_QK)
        tl.store(dq_ptr + own_QK, (dq_QK * scale).to(dq_ptr.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _places(positions: tl.constexpr, heads: tl.constexpr, head_width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where the program's head begins in an array [B, S, H, K], how far positions are apart, row and head."""
    row_and_head = tl.program_id(0).to(tl.int64)  # places in the weights need more than 32 bits
    row, head = row_and_head // heads, row_and_head % heads
    return (row * positions * heads + head) * head_width, heads * head_width, row, head


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pairs(query_Q, key_T, positions: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where pairs of a query and a key are in a head's weights [S, T]."""
    return query_Q[:, None] * positions + key_T[None, :]


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weights_and_gradients(  # type: ignore[no-untyped-def]
    q_QK, k_TK, v_TK, o_QK, do_QK, level_Q, same_QT, keep_QT, scale: tl.constexpr, kept_scale: tl.constexpr
):  # fmt: skip
    """Returns the weights after dropout, and the gradients of the logits but for their scale, as what products take."""
    logits_QT = tl.dot(q_QK, tl.trans(k_TK)) * (scale * _LOG2_E)
    weights_QT = tl.where(same_QT, tl.exp2(logits_QT - level_Q[:, None]), 0.0)
    dweights_QT = tl.dot(do_QK, tl.trans(v_TK))
    kept_QT = weights_QT
    if keep_QT is not None:
        kept_QT = tl.where(keep_QT, weights_QT * kept_scale, 0.0)
        dweights_QT = tl.where(keep_QT, dweights_QT * kept_scale, 0.0)
    # What the weighted gradients of a query sum to is its average times its gradient, with dropout, too.
    mean_Q = tl.sum(o_QK.to(tl.float32) * do_QK.to(tl.float32), 1)
    dlogits_QT = weights_QT * (dweights_QT - mean_Q[:, None])
    return kept_QT.to(do_QK.dtype), dlogits_QT.to(do_QK.dtype)

"""Attention within spans that drops weights without ever holding them: in Triton, for NVIDIA's Hopper GPUs.

XLA writes logits, weights and dropped weights to memory and reads them again, forward and backward; here they stay in
registers. The backward pass computes the weights once more, from the logarithm of the sums that the forward pass left.

Tiles are named by their dimensions: N positions of the program's own block, Q queries and T keys that it goes through,
K head width.
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

# What an H200 was fast with at 128 and 512 positions, dropout on, of two blocks, three steps, 4 and 8 warps and 1 to 3
# stages (docs/log.md).
BLOCKS = (128, 64, 32, 16)  # positions that a program computes, the most that divide the row
STEP = 64  # the most positions that it goes through at a time
STAGES = 3  # of loading and computing, side by side
FORWARD_WARPS, BACKWARD_WARPS = 4, 8  # the most; each has the 16 positions of a product of tensor cores

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
        kernel=attention_forward,
        name="attention_forward",
        out_type=(q_BSHK, jax.ShapeDtypeStruct((rows, heads, positions), jnp.float32)),
        **launch(q_BSHK.shape, FORWARD_WARPS),
        **constants(q_BSHK.shape, kept_scale),
    )
    o_BSHK, level_BHS = (checkpoint_name(x, PRODUCTS) for x in results)
    return o_BSHK, (q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST, o_BSHK, level_BHS)


def _gradients(kept_scale: float, kept: Kept, do_BSHK: jax.Array) -> tuple[jax.Array | None, ...]:
    dq_BSHK, dk_BTHK, dv_BTHK = jax_triton.triton_call(
        *kept,
        do_BSHK,
        kernel=attention_backward,
        name="attention_backward",
        out_type=kept[:3],
        **launch(do_BSHK.shape, BACKWARD_WARPS),
        **constants(do_BSHK.shape, kept_scale),
    )
    return dq_BSHK, dk_BTHK, dv_BTHK, None, None


attend.defvjp(_attend_and_keep, _gradients)


def launch(shape_BSHK: tuple[int, ...], most_warps: int) -> dict[str, Any]:
    """Returns how many programs there are, one for each block of a head of a row, and how each is run."""
    rows, positions, heads, _ = shape_BSHK
    block = block_of(positions)
    grid = (rows * heads, positions // block)
    return {"grid": grid, "num_warps": min(most_warps, block // 16), "num_stages": STAGES}


def constants(shape_BSHK: tuple[int, ...], kept_scale: float) -> dict[str, Any]:
    """Returns what the kernels are compiled for."""
    _, positions, heads, head_width = shape_BSHK
    block = block_of(positions)
    return {
        "positions": positions,
        "heads": heads,
        "head_width": head_width,
        "block": block,
        "step": min(block, STEP),
        "scale": head_width**-0.5,
        "kept_scale": kept_scale,
    }


def block_of(positions: int) -> int:
    """Returns how many of a row's positions a program computes."""
    return next(size for size in BLOCKS if positions % size == 0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def attention_forward(  # type: ignore[no-untyped-def]
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
    step: tl.constexpr,
    scale: tl.constexpr,
    kept_scale: tl.constexpr,
):
    """Writes the averages of a block of queries, and for each query the level: log2 of the sum of its exponentials."""
    first, stride, row, head = _places(positions, heads, head_width)
    if keep_ptr is not None:
        keep_ptr += (row * heads + head) * positions * positions
    lane_K = tl.arange(0, head_width)
    query_N = tl.program_id(1) * block + tl.arange(0, block)
    query_NK = first + query_N[:, None] * stride + lane_K[None, :]
    q_NK = tl.load(q_ptr + query_NK)
    span_N = tl.load(spans_ptr + row * positions + query_N)
    top_N = tl.full([block], -float("inf"), tl.float32)
    sum_N = tl.zeros([block], tl.float32)
    o_NK = tl.zeros([block, head_width], tl.float32)
    for start in range(0, positions, step):
        key_T = start + tl.arange(0, step)
        key_TK = first + key_T[:, None] * stride + lane_K[None, :]
        same_NT = span_N[:, None] == tl.load(spans_ptr + row * positions + key_T)[None, :]
        logits_NT = tl.where(same_NT, tl.dot(q_NK, tl.trans(tl.load(k_ptr + key_TK))) * (scale * _LOG2_E), _NEGATIVE)
        # All so far was relative to the largest logit so far.
        higher_N = tl.maximum(top_N, tl.max(logits_NT, 1))
        shrink_N = tl.exp2(top_N - higher_N)
        weights_NT = tl.exp2(logits_NT - higher_N[:, None])
        sum_N = sum_N * shrink_N + tl.sum(weights_NT, 1)  # of all: dropout comes after the softmax
        if keep_ptr is not None:
            keep_NT = tl.load(keep_ptr + _pairs(query_N[:, None], key_T[None, :], positions)) != 0
            weights_NT = tl.where(keep_NT, weights_NT, 0.0)
        v_TK = tl.load(v_ptr + key_TK)
        o_NK = tl.dot(weights_NT.to(v_TK.dtype), v_TK, o_NK * shrink_N[:, None])
        top_N = higher_N
    o_NK /= sum_N[:, None]
    if keep_ptr is not None:
        o_NK *= kept_scale
    tl.store(o_ptr + query_NK, o_NK.to(o_ptr.dtype.element_ty))
    tl.store(level_ptr + (row * heads + head) * positions + query_N, top_N + tl.log2(sum_N))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def attention_backward(  # type: ignore[no-untyped-def]
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
    step: tl.constexpr,
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
    own_N = tl.program_id(1) * block + tl.arange(0, block)
    own_NK = first + own_N[:, None] * stride + lane_K[None, :]
    own_span_N = tl.load(spans_ptr + own_N)

    k_NK = tl.load(k_ptr + own_NK)
    v_NK = tl.load(v_ptr + own_NK)
    dk_NK = tl.zeros([block, head_width], tl.float32)
    dv_NK = tl.zeros([block, head_width], tl.float32)
    for start in range(0, positions, step):
        query_Q = start + tl.arange(0, step)
        query_QK = first + query_Q[:, None] * stride + lane_K[None, :]
        q_QK = tl.load(q_ptr + query_QK)
        do_QK = tl.load(do_ptr + query_QK)
        mean_Q = tl.sum(tl.load(o_ptr + query_QK).to(tl.float32) * do_QK.to(tl.float32), 1)
        # Transposed, so that two of the three products take them from registers.
        same_NQ = own_span_N[:, None] == tl.load(spans_ptr + query_Q)[None, :]
        keep_NQ = (
            None if keep_ptr is None else tl.load(keep_ptr + _pairs(query_Q[None, :], own_N[:, None], positions)) != 0
        )
        logits_NQ = tl.dot(k_NK, tl.trans(q_QK))
        dweights_NQ = tl.dot(v_NK, tl.trans(do_QK))
        weights_NQ, dlogits_NQ = _weights_and_gradients(
            logits_NQ,
            dweights_NQ,
            tl.load(level_ptr + query_Q)[None, :],
            mean_Q[None, :],
            same_NQ,
            keep_NQ,
            scale,
            kept_scale,
        )
        dv_NK = tl.dot(weights_NQ.to(do_QK.dtype), do_QK, dv_NK)
        dlogits_NQ = dlogits_NQ.to(q_QK.dtype)
        dk_NK = tl.dot(dlogits_NQ, q_QK, dk_NK)
        if positions == block:
            dq_QK = tl.dot(tl.trans(dlogits_NQ), k_NK)
            tl.store(dq_ptr + query_QK, (dq_QK * scale).to(dq_ptr.dtype.element_ty))
    tl.store(dk_ptr + own_NK, (dk_NK * scale).to(dk_ptr.dtype.element_ty))
    tl.store(dv_ptr + own_NK, dv_NK.to(dv_ptr.dtype.element_ty))

    if positions > block:
        q_NK = tl.load(q_ptr + own_NK)
        do_NK = tl.load(do_ptr + own_NK)
        mean_N = tl.sum(tl.load(o_ptr + own_NK).to(tl.float32) * do_NK.to(tl.float32), 1)
        level_N = tl.load(level_ptr + own_N)
        dq_NK = tl.zeros([block, head_width], tl.float32)
        for start in range(0, positions, step):
            key_T = start + tl.arange(0, step)
            key_TK = first + key_T[:, None] * stride + lane_K[None, :]
            k_TK = tl.load(k_ptr + key_TK)
            same_NT = own_span_N[:, None] == tl.load(spans_ptr + key_T)[None, :]
            keep_NT = (
                None if keep_ptr is None else tl.load(keep_ptr + _pairs(own_N[:, None], key_T[None, :], positions)) != 0
            )
            logits_NT = tl.dot(q_NK, tl.trans(k_TK))
            dweights_NT = tl.dot(do_NK, tl.trans(tl.load(v_ptr + key_TK)))
            _, dlogits_NT = _weights_and_gradients(
                logits_NT, dweights_NT, level_N[:, None], mean_N[:, None], same_NT, keep_NT, scale, kept_scale
            )
            dq_NK = tl.dot(dlogits_NT.to(k_TK.dtype), k_TK, dq_NK)
        tl.store(dq_ptr + own_NK, (dq_NK * scale).to(dq_ptr.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _places(positions: tl.constexpr, heads: tl.constexpr, head_width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where the program's head begins in an array [B, S, H, K], how far positions are apart, row and head."""
    row_and_head = tl.program_id(0).to(tl.int64)  # places in the weights need more than 32 bits
    row, head = row_and_head // heads, row_and_head % heads
    return (row * positions * heads + head) * head_width, heads * head_width, row, head


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _pairs(query, key, positions: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where pairs of a query and a key are in a head's weights [S, T]."""
    return query * positions + key


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weights_and_gradients(  # type: ignore[no-untyped-def]
    products, dweights, level, mean, same, keep, scale: tl.constexpr, kept_scale: tl.constexpr
):  # fmt: skip
    """Returns the weights after dropout, and the gradients of the logits but for their scale.

    `products` are those of queries and keys, `mean` is what a query's weighted gradients sum to, with dropout, too: its
    average times that one's gradient.
    """
    weights = tl.where(same, tl.exp2(products * (scale * _LOG2_E) - level), 0.0)
    kept = weights
    if keep is not None:
        kept = tl.where(keep, weights * kept_scale, 0.0)
        dweights = tl.where(keep, dweights * kept_scale, 0.0)
    return kept, weights * (dweights - mean)

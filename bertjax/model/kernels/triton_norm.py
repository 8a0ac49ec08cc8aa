"""A sublayer's bias, dropout, residual sum and LayerNorm in one: in Triton, for NVIDIA GPUs. Unmeasured.

XLA takes several kernels for it, and more for the gradients, because it cannot sum over rows and over columns in one;
here each array is read once and written once, and the sum itself is never written.

Tiles are named by their dimensions: N rows of a block, D width.
Source: Ba et al. 2016, Layer Normalization, section 3.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax_triton
import triton
import triton.language as tl
from jax.ad_checkpoint import checkpoint_name

from bertjax.model.layers import NORMS

WARPS = 4
FORWARD_TILE = 4096  # elements of a block: what four warps hold in registers without spilling (tests/model)
BACKWARD_TILE = 2048
ROWS = 32  # whose gradients of bias, scale and shift a program adds up


def add_and_norm(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    keep_BSD: jax.Array | None = None,
    *,
    kept_scale: float,
    epsilon: float,
) -> jax.Array:
    """Returns the normalized sum of x and what is kept of y + bias, all without `keep_BSD`, times `kept_scale`."""
    return _add_and_norm(x_BSD, y_BSD, bias_D, scale_D, shift_D, keep_BSD, kept_scale, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _add_and_norm(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    keep_BSD: jax.Array | None,
    kept_scale: float,
    epsilon: float,
) -> jax.Array:
    return _forward(x_BSD, y_BSD, bias_D, scale_D, shift_D, keep_BSD, kept_scale, epsilon)[0]


def _forward(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    keep_BSD: jax.Array | None,
    kept_scale: float,
    epsilon: float,
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    width = x_BSD.shape[-1]
    rows = x_BSD.size // width
    statistic = jax.ShapeDtypeStruct((rows,), jnp.float32)
    how = constants(width, FORWARD_TILE, kept_scale)
    results = jax_triton.triton_call(
        x_BSD,
        y_BSD,
        keep_BSD,
        bias_D,
        scale_D,
        shift_D,
        kernel=forward,
        name="norm_forward",
        out_type=(jax.ShapeDtypeStruct(x_BSD.shape, x_BSD.dtype), statistic, statistic),
        grid=(triton.cdiv(rows, how["block"]),),
        num_warps=WARPS,
        rows=rows,
        epsilon=epsilon,
        **how,
    )
    out_BSD, mean_N, inverse_N = (checkpoint_name(x, NORMS) for x in results)
    return out_BSD, (x_BSD, y_BSD, keep_BSD, bias_D, scale_D, mean_N, inverse_N)


def _backward(
    kept_scale: float, _epsilon: float, kept: tuple[jax.Array | None, ...], dout_BSD: jax.Array
) -> tuple[jax.Array | None, ...]:
    _, _, keep_BSD, bias_D, scale_D, _, _ = kept
    assert bias_D is not None
    assert scale_D is not None
    width = dout_BSD.shape[-1]
    rows = dout_BSD.size // width
    like = jax.ShapeDtypeStruct(dout_BSD.shape, dout_BSD.dtype)
    programs = triton.cdiv(rows, ROWS)
    # Where nothing is dropped, x and y have the same gradient.
    out_type = {"dx_ptr": like, "dy_ptr": like, "dparams_ptr": jax.ShapeDtypeStruct((programs, 3, width), jnp.float32)}
    alone: dict[str, Any] = {} if keep_BSD is not None else {"dy_ptr": None}
    dx_BSD, *dy_BSD, dparams_PCD = jax_triton.triton_call(
        *kept,
        dout_BSD,
        kernel=backward,
        name="norm_backward",
        out_type=[shape for name, shape in out_type.items() if name not in alone],
        grid=(programs,),
        num_warps=WARPS,
        rows=rows,
        each=ROWS,
        **alone,
        **constants(width, BACKWARD_TILE, kept_scale),
    )
    dbias_D, dscale_D, dshift_D = jnp.sum(dparams_PCD, axis=0)
    dnorm = (dscale_D.astype(scale_D.dtype), dshift_D.astype(scale_D.dtype))
    return dx_BSD, dy_BSD[0] if dy_BSD else dx_BSD, dbias_D.astype(bias_D.dtype), *dnorm, None


_add_and_norm.defvjp(_forward, _backward)


def constants(width: int, tile: int, kept_scale: float) -> dict[str, Any]:
    """Returns what the kernels are compiled for."""
    lanes = triton.next_power_of_2(width)
    return {"width": width, "lanes": lanes, "block": min(ROWS, max(1, tile // lanes)), "kept_scale": kept_scale}


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def forward(  # type: ignore[no-untyped-def]
    x_ptr,
    y_ptr,
    keep_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    out_ptr,
    mean_ptr,
    inverse_ptr,
    rows: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    kept_scale: tl.constexpr,
    epsilon: tl.constexpr,
):
    """Writes a block of normalized rows, and each row's mean and the inverse of its deviation."""
    row_N = tl.program_id(0) * block + tl.arange(0, block)
    column_D = tl.arange(0, lanes)
    at_ND, there_ND = _places(row_N, column_D, rows, width)
    bias_D = tl.load(bias_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    sum_ND, _ = _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, there_ND, kept_scale)
    mean_N = tl.sum(sum_ND, axis=1) / width
    centred_ND = tl.where(there_ND, sum_ND - mean_N[:, None], 0.0)
    inverse_N = tl.rsqrt(tl.sum(centred_ND * centred_ND, axis=1) / width + epsilon)
    scale_D = tl.load(scale_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    shift_D = tl.load(shift_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    out_ND = centred_ND * inverse_N[:, None] * scale_D[None, :] + shift_D[None, :]
    tl.store(out_ptr + at_ND, out_ND.to(out_ptr.dtype.element_ty), mask=there_ND)
    tl.store(mean_ptr + row_N, mean_N, mask=row_N < rows)
    tl.store(inverse_ptr + row_N, inverse_N, mask=row_N < rows)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def backward(  # type: ignore[no-untyped-def]
    x_ptr,
    y_ptr,
    keep_ptr,
    bias_ptr,
    scale_ptr,
    mean_ptr,
    inverse_ptr,
    dout_ptr,
    dx_ptr,
    dy_ptr,
    dparams_ptr,
    rows: tl.constexpr,
    each: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    kept_scale: tl.constexpr,
):
    """Writes the gradients of `each` rows, and what these add to those of bias, scale and shift."""
    column_D = tl.arange(0, lanes)
    scale_D = tl.load(scale_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    bias_D = tl.load(bias_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    dbias_ND = tl.zeros([block, lanes], tl.float32)
    dscale_ND = tl.zeros([block, lanes], tl.float32)
    dshift_ND = tl.zeros([block, lanes], tl.float32)
    for start in range(0, each, block):
        row_N = tl.program_id(0) * each + start + tl.arange(0, block)
        at_ND, there_ND = _places(row_N, column_D, rows, width)
        sum_ND, keep_ND = _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, there_ND, kept_scale)
        mean_N = tl.load(mean_ptr + row_N, mask=row_N < rows, other=0)
        inverse_N = tl.load(inverse_ptr + row_N, mask=row_N < rows, other=0)
        normal_ND = tl.where(there_ND, (sum_ND - mean_N[:, None]) * inverse_N[:, None], 0.0)
        dout_ND = tl.load(dout_ptr + at_ND, mask=there_ND, other=0).to(tl.float32)
        dscale_ND += dout_ND * normal_ND
        dshift_ND += dout_ND
        dnormal_ND = dout_ND * scale_D[None, :]
        # Less what moves all of a row, or stretches it: the norm undoes both.
        move_N = tl.sum(dnormal_ND, axis=1) / width
        stretch_N = tl.sum(dnormal_ND * normal_ND, axis=1) / width
        dsum_ND = (dnormal_ND - move_N[:, None] - normal_ND * stretch_N[:, None]) * inverse_N[:, None]
        tl.store(dx_ptr + at_ND, dsum_ND.to(dx_ptr.dtype.element_ty), mask=there_ND)
        if dy_ptr is not None:
            dsum_ND = tl.where(keep_ND, dsum_ND * kept_scale, 0.0)
            tl.store(dy_ptr + at_ND, dsum_ND.to(dy_ptr.dtype.element_ty), mask=there_ND)
        dbias_ND += dsum_ND
    to_D = tl.program_id(0) * 3 * width + column_D
    tl.store(dparams_ptr + to_D, tl.sum(dbias_ND, axis=0), mask=column_D < width)
    tl.store(dparams_ptr + to_D + width, tl.sum(dscale_ND, axis=0), mask=column_D < width)
    tl.store(dparams_ptr + to_D + 2 * width, tl.sum(dshift_ND, axis=0), mask=column_D < width)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _places(row_N, column_D, rows: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where the elements of these rows are, and which of them there are."""
    there_ND = (row_N < rows)[:, None] & (column_D < width)[None, :]
    return row_N[:, None].to(tl.int64) * width + column_D[None, :], there_ND


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, there_ND, kept_scale: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns x and what is kept of y + bias, added up in float32, and what is kept."""
    x_ND = tl.load(x_ptr + at_ND, mask=there_ND, other=0).to(tl.float32)
    y_ND = tl.load(y_ptr + at_ND, mask=there_ND, other=0).to(tl.float32) + bias_D[None, :]
    keep_ND = there_ND
    if keep_ptr is not None:
        keep_ND = tl.load(keep_ptr + at_ND, mask=there_ND, other=0) != 0
        y_ND = tl.where(keep_ND, y_ND * kept_scale, 0.0)
    return x_ND + y_ND, keep_ND

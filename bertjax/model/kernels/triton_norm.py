"""A sublayer's bias, dropout, residual sum and LayerNorm in one: in Triton, for NVIDIA GPUs.

XLA takes several kernels for it, and more for the gradients, because it cannot sum over rows and over columns in one;
here each pass reads and writes an array once, and the sum itself is never written.

Tiles are named by their dimensions: N rows of a block, D width.
Source: Ba et al. 2016, Layer Normalization, section 3.
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

from bertjax.model.layers import NORMS
from bertjax.sharding import ACT_B, BATCH, REPLICATED

# What an H200 was fast with at widths of 768 and 1,024, of three tiles, 1 to 8 warps, 32 and 64 rows and 1 and 3 stages
# (docs/log.md).
FORWARD_TILE, FORWARD_WARPS = 2048, 2  # the elements of a block, and the warps that hold them
BACKWARD_TILE, BACKWARD_WARPS = 1024, 4
ROWS = 32  # whose gradients of bias, scale and shift a program adds up
STAGES = 3  # of its loading and computing, side by side

Kept = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def add_and_norm(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    keep_BSD: jax.Array | None,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    kept_scale: float,
    epsilon: float,
) -> jax.Array:
    """Returns the normalized sum of x and what is kept of y + bias, times `kept_scale`; each device its own rows.

    Without `keep_BSD` nothing is dropped and nothing scaled.
    """
    return _add_and_keep(x_BSD, y_BSD, keep_BSD, bias_D, scale_D, shift_D, kept_scale, epsilon)[0]


def _add_and_keep(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    keep_BSD: jax.Array | None,
    bias_D: jax.Array,
    scale_D: jax.Array,
    shift_D: jax.Array,
    kept_scale: float,
    epsilon: float,
) -> tuple[jax.Array, Kept]:
    def of_device(x_BSD: jax.Array, *others: jax.Array | None) -> Any:
        *leading, width = x_BSD.shape
        how = constants(math.prod(leading), width, FORWARD_TILE, kept_scale)
        statistic_BS = jax.ShapeDtypeStruct(leading, jnp.float32)
        return jax_triton.triton_call(
            x_BSD,
            *others,
            kernel=norm_forward,
            name="norm_forward",
            out_type=(x_BSD, statistic_BS, statistic_BS),
            grid=(triton.cdiv(how["rows"], how["block"]),),
            num_warps=FORWARD_WARPS,
            epsilon=epsilon,
            **how,
        )

    cut = (ACT_B,) * 3 + (REPLICATED,) * 3
    on_devices = jax.shard_map(of_device, in_specs=cut, out_specs=(ACT_B,) * 3, check_vma=False)
    results = on_devices(x_BSD, y_BSD, keep_BSD, bias_D, scale_D, shift_D)
    out_BSD, mean_BS, inverse_BS = (checkpoint_name(x, NORMS) for x in results)
    return out_BSD, (x_BSD, y_BSD, keep_BSD, bias_D, scale_D, mean_BS, inverse_BS)


def _gradients(kept_scale: float, _epsilon: float, kept: Kept, dout_BSD: jax.Array) -> tuple[jax.Array | None, ...]:
    def of_device(x_BSD: jax.Array, y_BSD: jax.Array, keep_BSD: jax.Array | None, *others: jax.Array) -> Any:
        *leading, width = x_BSD.shape
        how = constants(math.prod(leading), width, BACKWARD_TILE, kept_scale)
        programs = triton.cdiv(how["rows"], ROWS)
        dparams_PCD = jax.ShapeDtypeStruct((programs, 3, width), jnp.float32)
        same = keep_BSD is None  # where nothing is dropped, x and y have one gradient
        dx_BSD, *dy_BSD, dparams_PCD = jax_triton.triton_call(
            x_BSD,
            y_BSD,
            keep_BSD,
            *others,
            kernel=norm_backward,
            name="norm_backward",
            out_type=(x_BSD, dparams_PCD) if same else (x_BSD, y_BSD, dparams_PCD),
            grid=(programs,),
            num_warps=BACKWARD_WARPS,
            rows_per_program=ROWS,
            stages=STAGES,
            **how,
            **({"dy_ptr": None} if same else {}),
        )
        return dx_BSD, *(dy_BSD or [dx_BSD]), jax.lax.psum(jnp.sum(dparams_PCD, axis=0), BATCH)

    *_, bias_D, scale_D, _, _ = kept
    cut = (ACT_B,) * 3 + (REPLICATED,) * 2 + (ACT_B,) * 3
    on_devices = jax.shard_map(of_device, in_specs=cut, out_specs=(ACT_B, ACT_B, REPLICATED), check_vma=False)
    dx_BSD, dy_BSD, (dbias_D, dscale_D, dshift_D) = on_devices(*kept, dout_BSD)
    # A norm's shift has the dtype of its scale.
    dnorm = (dscale_D.astype(scale_D.dtype), dshift_D.astype(scale_D.dtype))
    return dx_BSD, dy_BSD, None, dbias_D.astype(bias_D.dtype), *dnorm


add_and_norm.defvjp(_add_and_keep, _gradients)


def constants(rows: int, width: int, tile: int, kept_scale: float) -> dict[str, Any]:
    """Returns what the kernels are compiled for."""
    lanes = triton.next_power_of_2(width)
    block = min(ROWS, max(1, tile // lanes))
    return {"rows": rows, "width": width, "lanes": lanes, "block": block, "kept_scale": kept_scale}


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def norm_forward(  # type: ignore[no-untyped-def]
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
    at_ND, inside_ND = _places(row_N, column_D, rows, width)
    bias_D = tl.load(bias_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    sum_ND, _ = _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, inside_ND, kept_scale)
    mean_N = tl.sum(sum_ND, axis=1) / width
    centred_ND = tl.where(inside_ND, sum_ND - mean_N[:, None], 0.0)
    inverse_N = tl.rsqrt(tl.sum(centred_ND * centred_ND, axis=1) / width + epsilon)
    scale_D = tl.load(scale_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    shift_D = tl.load(shift_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    out_ND = centred_ND * inverse_N[:, None] * scale_D[None, :] + shift_D[None, :]
    tl.store(out_ptr + at_ND, out_ND.to(out_ptr.dtype.element_ty), mask=inside_ND)
    tl.store(mean_ptr + row_N, mean_N, mask=row_N < rows)
    tl.store(inverse_ptr + row_N, inverse_N, mask=row_N < rows)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def norm_backward(  # type: ignore[no-untyped-def]
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
    rows_per_program: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    block: tl.constexpr,
    stages: tl.constexpr,
    kept_scale: tl.constexpr,
):
    """Writes the gradients of `rows_per_program` rows, and what these add to those of bias, scale and shift."""
    column_D = tl.arange(0, lanes)
    scale_D = tl.load(scale_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    bias_D = tl.load(bias_ptr + column_D, mask=column_D < width, other=0).to(tl.float32)
    dbias_ND = tl.zeros([block, lanes], tl.float32)
    dscale_ND = tl.zeros([block, lanes], tl.float32)
    dshift_ND = tl.zeros([block, lanes], tl.float32)
    for start in tl.range(0, rows_per_program, block, num_stages=stages):
        row_N = tl.program_id(0) * rows_per_program + start + tl.arange(0, block)
        at_ND, inside_ND = _places(row_N, column_D, rows, width)
        sum_ND, keep_ND = _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, inside_ND, kept_scale)
        mean_N = tl.load(mean_ptr + row_N, mask=row_N < rows, other=0)
        inverse_N = tl.load(inverse_ptr + row_N, mask=row_N < rows, other=0)
        normal_ND = tl.where(inside_ND, (sum_ND - mean_N[:, None]) * inverse_N[:, None], 0.0)
        dout_ND = tl.load(dout_ptr + at_ND, mask=inside_ND, other=0).to(tl.float32)
        dscale_ND += dout_ND * normal_ND
        dshift_ND += dout_ND
        dnormal_ND = dout_ND * scale_D[None, :]
        # Less what moves all of a row, or stretches it: the norm undoes both.
        move_N = tl.sum(dnormal_ND, axis=1) / width
        stretch_N = tl.sum(dnormal_ND * normal_ND, axis=1) / width
        dsum_ND = (dnormal_ND - move_N[:, None] - normal_ND * stretch_N[:, None]) * inverse_N[:, None]
        tl.store(dx_ptr + at_ND, dsum_ND.to(dx_ptr.dtype.element_ty), mask=inside_ND)
        if dy_ptr is not None:
            dsum_ND = tl.where(keep_ND, dsum_ND * kept_scale, 0.0)
            tl.store(dy_ptr + at_ND, dsum_ND.to(dy_ptr.dtype.element_ty), mask=inside_ND)
        dbias_ND += dsum_ND
    to_D = tl.program_id(0) * 3 * width + column_D
    tl.store(dparams_ptr + to_D, tl.sum(dbias_ND, axis=0), mask=column_D < width)
    tl.store(dparams_ptr + to_D + width, tl.sum(dscale_ND, axis=0), mask=column_D < width)
    tl.store(dparams_ptr + to_D + 2 * width, tl.sum(dshift_ND, axis=0), mask=column_D < width)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _places(row_N, column_D, rows: tl.constexpr, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns where the elements of these rows are, and which of them there are."""
    inside_ND = (row_N < rows)[:, None] & (column_D < width)[None, :]
    return row_N[:, None].to(tl.int64) * width + column_D[None, :], inside_ND


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _sum(x_ptr, y_ptr, keep_ptr, bias_D, at_ND, inside_ND, kept_scale: tl.constexpr):  # type: ignore[no-untyped-def]
    """Returns x and what is kept of y + bias, added up in float32, and what is kept."""
    x_ND = tl.load(x_ptr + at_ND, mask=inside_ND, other=0).to(tl.float32)
    y_ND = tl.load(y_ptr + at_ND, mask=inside_ND, other=0).to(tl.float32) + bias_D[None, :]
    keep_ND = inside_ND
    if keep_ptr is not None:
        keep_ND = tl.load(keep_ptr + at_ND, mask=inside_ND, other=0) != 0
        y_ND = tl.where(keep_ND, y_ND * kept_scale, 0.0)
    return x_ND + y_ND, keep_ND

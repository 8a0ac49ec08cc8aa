"""Attention by JAX's kernel for TPUs, splash, which is compiled for them (docs/plan.md) and unmeasured."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from bertjax.model.layers import PRODUCTS

BLOCKS = (512, 384, 256, 128)  # positions of a block, the largest that divides the row; unmeasured


def attend(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns o_BSHK by JAX's kernel for TPUs: within spans, padding within padding, as the reference does.

    `interpret` computes it on any backend, slowly.
    """
    positions, heads, head_width = q_BSHK.shape[1:]
    block = next(size for size in BLOCKS if positions % size == 0)
    blocks: dict[str, Any] = {
        f"block_{name}": block
        for name in ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    }
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.FullMask((positions, positions))] * heads),
        block_sizes=kernels.BlockSizes(**blocks),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=PRODUCTS,
        interpret=interpret,
    )
    scaled_BSHK = q_BSHK * jnp.asarray(head_width**-0.5, q_BSHK.dtype)
    by_head = [x.swapaxes(1, 2) for x in (scaled_BSHK, k_BTHK, v_BTHK)]
    o_BHSK = jax.vmap(attend)(*by_head, segment_ids=kernels.SegmentIds(spans_BS, spans_BS))
    return o_BHSK.swapaxes(1, 2)

"""Attention by kernels that never hold the weights: which there are for a backend and a shape, and how they are called.

None of them drops weights, and none has ModernBERT's local windows; there the reference in model/attention.py computes.
cuDNN's was compared with the reference and timed on an H200 (docs/log.md); splash is compiled for TPUs (docs/plan.md)
and unmeasured. `python -m benchmarks.ablation --only kernel` measures what a kernel is worth.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.model.layers import PRODUCTS

Kernel = Literal["xla", "cudnn", "splash"]

LANES = 128  # of a TPU: splash's blocks are multiples of it
BLOCKS = (512, 384, 256, 128)  # positions a block of splash, the largest that divides the row; unmeasured
WIDEST = 128  # head width up to which cuDNN has it before Hopper
# NVIDIA's names of what cuDNN's attention does not run on; data centre GPUs of that time begin with Tesla.
BEFORE_AMPERE = re.compile(r"\b(GTX|MX\d{3}|Quadro|RTX 20[678]0|T4G?|T\d{3,4}|TITAN)\b")
HOPPER_ON = re.compile(r"\b(G?H[12]0\d|G?B[123]\d\d|RTX PRO)\b")
CUDNN_PRIMITIVE = "dot_product_attention_fwd_wrapper"  # JAX's, for cuDNN's forward pass


@dataclasses.dataclass(frozen=True)
class Case:
    """What decides which kernels can compute an attention."""

    device_kind: str
    platform: str
    positions: int
    head_width: int
    dtype: str
    dropout: float = 0.0
    """On the weights."""
    most_spans: int | None = 1
    """Of a row, if that is known."""
    local: bool = False
    """Whether some layers see near positions only."""


def choose(asked: Literal["auto"] | Kernel, case: Case) -> Kernel:
    """Returns the kernel asked for or, of `auto`, the backend's; "xla" where that cannot."""
    fitting = supported(case)
    if asked != "auto":
        return asked if asked in fitting else "xla"
    # What JAX does not publish, cuDNN for packed rows, is for those who ask for it.
    return "xla" if fitting[-1] == "cudnn" and case.most_spans != 1 else fitting[-1]


def case_of(c: ModelConfig, device: tuple[str, str], *, positions: int, dtype: str, most_spans: int | None) -> Case:
    """Returns that of training on such rows; `device` is its (device_kind, platform)."""
    return Case(
        *device,
        positions=positions,
        head_width=c.width // c.heads,
        dtype=dtype,
        dropout=c.attention_dropout,
        most_spans=most_spans,
        local=c.family == "modernbert",
    )


def check(c: ModelConfig, device: tuple[str, str], *, positions: int, dtype: str, most_spans: int | None) -> Kernel:
    """Returns what computes attention in that case. Raises: UserError if the config asks for a kernel that cannot."""
    case = case_of(c, device, positions=positions, dtype=dtype, most_spans=most_spans)
    if c.attention != "auto" and (reason := obstacle(c.attention, case)):
        raise UserError(f"model.attention={c.attention!r} {reason}; use {' or '.join(('auto', *supported(case)))}")
    return choose(c.attention, case)


def supported(case: Case) -> list[Kernel]:
    """Returns the kernels that can compute the case; the first is the reference."""
    return [kernel for kernel in get_args(Kernel) if obstacle(kernel, case) is None]


def obstacle(kernel: Kernel, case: Case) -> str | None:
    """Returns why the kernel cannot compute the case, None if it can."""
    if kernel == "xla":
        return None
    if case.dropout > 0:
        return f"drops no weights, but model.attention_dropout={case.dropout}"
    if case.local:
        return "has no local windows, but model.family='modernbert'"
    return _obstacle_for_splash(case) if kernel == "splash" else _obstacle_for_cudnn(case)


def _obstacle_for_splash(case: Case) -> str | None:
    if case.platform != "tpu":
        return f"runs on TPUs, not on {case.device_kind}"
    if case.positions % LANES:
        return f"takes rows of a multiple of {LANES} positions, not of {case.positions}"
    return None


def _obstacle_for_cudnn(case: Case) -> str | None:
    if not case.device_kind.startswith("NVIDIA") or BEFORE_AMPERE.search(case.device_kind):  # AMD's have other names
        return f"runs on NVIDIA GPUs from Ampere (A100) on, not on {case.device_kind}"
    if case.dtype not in ("bfloat16", "float16"):
        return f"computes in bfloat16, not in {case.dtype}"
    if case.head_width % 8 or case.head_width > WIDEST:
        return f"takes heads of a width that is a multiple of 8 up to {WIDEST}, not {case.head_width}"
    if case.most_spans is None:
        return "takes rows of which the most spans are known"
    if case.most_spans > 1 and not HOPPER_ON.search(case.device_kind):
        return f"takes packed rows from Hopper (H100) on, not on {case.device_kind}"
    return None


def splash(
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    most_spans: int | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Returns o_BSHK by JAX's kernel for TPUs: within spans, padding within padding, as the reference does.

    `interpret` computes it on any backend, slowly.
    """
    del most_spans
    # Imported late: Pallas for TPUs is of no use elsewhere and takes a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

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


def keeps_cudnn(primitive: Any, *_: Any, **__: Any) -> bool:
    """By which rematerialisation knows what cuDNN's forward pass gives the backward pass: those sums have no name."""
    return bool(primitive.name == CUDNN_PRIMITIVE)


def cudnn(
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


COMPUTE: dict[Kernel, Callable[..., jax.Array]] = {"splash": splash, "cudnn": cudnn}


def attend(
    kernel: Kernel,
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    most_spans: int | None = None,
) -> jax.Array:
    """Returns o_BSHK by a kernel, each device its own rows and heads: compilers cannot partition kernels."""
    arrays = (q_BSHK, k_BTHK, v_BTHK, spans_BS)
    specs = tuple(jax.typeof(x).sharding.spec for x in arrays)
    # check_vma=False: Pallas' kernels do not say how their results vary over the mesh.
    compute = functools.partial(COMPUTE[kernel], most_spans=most_spans)
    local = jax.shard_map(compute, in_specs=specs, out_specs=specs[0], check_vma=False)
    return local(*arrays)

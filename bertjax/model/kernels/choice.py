"""Which kernels there are for a backend and a shape, what `auto` takes, and how they are called.

None but Triton's drops weights of attention, and none has ModernBERT's local windows; there the references in
model/attention.py and model/residual.py compute. `python -m benchmarks.ablation --only kernel norm` measures what a
kernel is worth.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Iterable
from typing import Literal, get_args

import jax

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.model.kernels import cudnn

Kernel = Literal["xla", "cudnn", "splash", "triton"]

LANES = 128  # of a TPU: splash's blocks are multiples of it
WIDEST = 128  # head width up to which cuDNN has it before Hopper
TRITON_HEADS = (16, 32, 64)
TRITON_POSITIONS = 16  # the smallest product of tensor cores
TRITON_ROW = 128  # positions that are one program's, which needs the weights once; longer rows, twice
TRITON_WIDTH = 2048  # of hidden states, of which a program holds a whole row in registers
# NVIDIA's names of what cuDNN's attention does not run on; data centre GPUs of that time begin with Tesla.
BEFORE_AMPERE = re.compile(r"\b(GTX|MX\d{3}|Quadro|RTX 20[678]0|T4G?|T\d{3,4}|TITAN)\b")
PACKED_ON = re.compile(r"\b(G?H[12]0\d|G?B[123]\d\d|RTX PRO)\b")
# What Triton writes for newer GPUs, CUDA's assembler does not read before 13.1; of Ampere's, attention needs more than
# the registers, and the norm is unmeasured.
HOPPER = re.compile(r"^NVIDIA G?H[128]\d\d?\b")
AMPERE_OR_HOPPER = re.compile(r"^NVIDIA (A[18]00|G?H[128]\d\d?)\b")


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
    if asked != "auto":
        return asked if obstacle(asked, case) is None else "xla"
    if obstacle("splash", case) is None:
        return "splash"
    # What JAX does not publish, cuDNN for packed rows, is for those who ask for it; so are shapes of which Triton's is
    # unmeasured: other heads, and rows that only small blocks divide.
    by_cudnn = obstacle("cudnn", case) is None and case.most_spans == 1
    measured = case.head_width == 64 and case.positions % TRITON_ROW == 0
    if measured and obstacle("triton", case) is None and not (by_cudnn and case.positions > TRITON_ROW):
        return "triton"
    return "cudnn" if by_cudnn else "xla"


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
    """Returns what computes attention in that case.

    Raises: UserError if the config asks for a kernel, of attention or of normalization, that cannot.
    """
    case = case_of(c, device, positions=positions, dtype=dtype, most_spans=most_spans)
    if c.attention != "auto" and (reason := obstacle(c.attention, case)):
        raise UserError(f"model.attention={c.attention!r} {reason}; use {' or '.join(('auto', *supported(case)))}")
    if c.norm == "triton" and (reason := norm_obstacle(c, device)):
        raise UserError(f"model.norm={c.norm!r} {reason}; use auto or xla")
    return choose(c.attention, case)


def supported(case: Case) -> list[Kernel]:
    """Returns the kernels that can compute the case; the first is the reference."""
    return [kernel for kernel in get_args(Kernel) if obstacle(kernel, case) is None]


def obstacle(kernel: Kernel, case: Case) -> str | None:
    """Returns why the kernel cannot compute the case, None if it can."""
    if kernel == "xla":
        return None
    if case.local:
        return "has no local windows, but model.family='modernbert'"
    if kernel == "triton":
        return _obstacle_for_triton(case)
    if case.dropout > 0:
        return f"drops no weights, but model.attention_dropout={case.dropout}"
    return _obstacle_for_splash(case) if kernel == "splash" else _obstacle_for_cudnn(case)


def _obstacle_for_splash(case: Case) -> str | None:
    if case.platform != "tpu":
        return f"runs on TPUs, not on {case.device_kind}"
    if case.positions % LANES:
        return f"takes rows of a multiple of {LANES} positions, not of {case.positions}"
    return None


def _obstacle_for_cudnn(case: Case) -> str | None:
    if reason := _obstacle_for_nvidia(case.device_kind) or _obstacle_in_dtype(case):
        return reason
    if case.head_width % 8 or case.head_width > WIDEST:
        return f"takes heads of a width that is a multiple of 8 up to {WIDEST}, not {case.head_width}"
    if case.most_spans is None:
        return "takes rows of which the most spans are known"
    if case.most_spans > 1 and not PACKED_ON.search(case.device_kind):
        return f"takes packed rows from Hopper (H100) on, not on {case.device_kind}"
    return None


def _obstacle_for_triton(case: Case) -> str | None:
    if not HOPPER.search(case.device_kind):
        return f"runs on NVIDIA's H100 and H200, not on {case.device_kind}"
    if reason := _obstacle_in_dtype(case):
        return reason
    if case.head_width not in TRITON_HEADS:
        return f"takes heads of a width of {', '.join(map(str, TRITON_HEADS))}, not {case.head_width}"
    if case.positions % TRITON_POSITIONS:
        return f"takes rows of a multiple of {TRITON_POSITIONS} positions, not of {case.positions}"
    return _obstacle_without_triton()


def _obstacle_for_nvidia(device_kind: str) -> str | None:
    if not device_kind.startswith("NVIDIA") or BEFORE_AMPERE.search(device_kind):  # AMD's have other names
        return f"runs on NVIDIA GPUs from Ampere (A100) on, not on {device_kind}"
    return None


def _obstacle_in_dtype(case: Case) -> str | None:
    return None if case.dtype in ("bfloat16", "float16") else f"computes in bfloat16, not in {case.dtype}"


@functools.cache
def _obstacle_without_triton() -> str | None:
    try:
        importlib.import_module("jax_triton")
    except (ImportError, AttributeError) as error:  # also what it misses in another version of triton
        return f"needs jax-triton (Python 3.12 or newer; {error}): pip install 'bertjax[triton]'"
    return None


def norm_of(c: ModelConfig, device: tuple[str, str]) -> Literal["xla", "triton"]:
    """Returns what normalizes the sums of the model on that (device_kind, platform): "xla" where the kernel cannot."""
    wanted = c.norm == "triton" or (c.norm == "auto" and HOPPER.search(device[0]))
    return "triton" if wanted and norm_obstacle(c, device) is None else "xla"


def describe(attention: Iterable[Kernel], norm: Kernel) -> str:
    """Returns what computes, for a log: each kernel of attention once, and that of norms if it is not the reference."""
    norms = "" if norm == "xla" else f", sums and norms by {norm}"
    return f"attention by {' and '.join(dict.fromkeys(attention))}{norms}"


def norm_obstacle(c: ModelConfig, device: tuple[str, str]) -> str | None:
    """Returns why Triton's kernel cannot normalize in the model on that (device_kind, platform), None if it can."""
    if not AMPERE_OR_HOPPER.search(device[0]):
        return f"runs on NVIDIA's A100, H100 and H200, not on {device[0]}"
    if c.family == "modernbert":
        return "normalizes sums, but the blocks of model.family='modernbert' what they read"
    if c.width > TRITON_WIDTH:
        return f"takes a width of up to {TRITON_WIDTH}, not {c.width}"
    return _obstacle_without_triton()


def attend(
    kernel: Kernel,
    q_BSHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    spans_BS: jax.Array,
    keep_BHST: jax.Array | None = None,
    *,
    most_spans: int | None = None,
    kept_scale: float = 1.0,
) -> jax.Array:
    """Returns o_BSHK by a kernel, each device its own rows and heads: compilers cannot partition kernels.

    Only Triton's drops weights: those that `keep_BHST` does not keep, and the others are times `kept_scale`.
    """

    def of_device(
        q_BSHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, spans_BS: jax.Array, keep_BHST: jax.Array | None
    ) -> jax.Array:
        # Triton and Pallas are imported here: of use on one backend only, and Pallas for TPUs takes a second.
        if kernel == "triton":
            from bertjax.model.kernels import triton_attention

            return triton_attention.attend(q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST, kept_scale)
        if kernel == "splash":
            from bertjax.model.kernels import splash

            return splash.attend(q_BSHK, k_BTHK, v_BTHK, spans_BS)
        return cudnn.attend(q_BSHK, k_BTHK, v_BTHK, spans_BS, most_spans)

    # check_vma=False: kernels do not say how their results vary over the mesh.
    on_devices = jax.shard_map(of_device, out_specs=jax.typeof(q_BSHK).sharding.spec, check_vma=False)
    return on_devices(q_BSHK, k_BTHK, v_BTHK, spans_BS, keep_BHST)

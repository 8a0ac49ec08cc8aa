"""Compiles Triton's kernels for GPUs, which need not be there, and prints what their programs take.

    python -m tests.model.compile_triton

A line of JSON for each, of H100 (compute capability 9.0) and, of the norm's, A100 (8.0): the bytes that it writes to
memory because registers do not hold them, and those of shared memory that a program asks for.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

sys.modules.setdefault("jax_triton", types.ModuleType("jax_triton"))  # not needed to compile

from bertjax.model.kernels import triton_attention, triton_norm  # noqa: E402

BF, F, MASK, INT = "*bf16", "*fp32", "*i1", "*i32"


def compiled(
    name: str, kernel: Any, types: list[str], constants: dict[str, Any], capability: int, **options: Any
) -> dict[str, Any]:
    """Returns what one program takes; `types` are those of the parameters that are not constant."""
    free = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(free, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in free}  # as jax-triton says
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    target = re.findall(r"\.target (sm_\w+)", made.asm["ptx"])[0]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(made.asm["ptx"])
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"-arch={target}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    spilled = int(re.findall(r"(\d+) bytes spill stores", said.stderr)[0])
    return {"name": f"{capability} {name}", "spilled": spilled, "shared": made.metadata.shared}


def attention_programs(positions: int, head_width: int, mask: bool, capability: int) -> Iterator[dict[str, Any]]:
    """Yields the forward and the backward program."""
    shape = (2, positions, 12, head_width)
    constants = triton_attention.constants(shape, 1.1) | ({} if mask else {"keep_ptr": None})
    types, gradients = [BF, BF, BF, INT, *([MASK] if mask else []), BF, F], [BF] * 4
    for way, kernel, warps in (
        ("forward", triton_attention.attention_forward, triton_attention.FORWARD_WARPS),
        ("backward", triton_attention.attention_backward, triton_attention.BACKWARD_WARPS),
    ):
        name = f"attention {way} {positions} x {head_width} {'with' if mask else 'without'} dropout"
        how = {key: n for key, n in triton_attention.launch(shape, warps).items() if key != "grid"}
        all_types = types + (gradients if way == "backward" else [])
        yield compiled(name, kernel, all_types, constants, capability, **how)


def norm_programs(width: int, mask: bool, capability: int) -> Iterator[dict[str, Any]]:
    """Yields the forward and the backward program."""
    masks = [MASK] if mask else []
    constants = {"epsilon": 1e-12} | ({} if mask else {"keep_ptr": None})
    constants |= triton_norm.constants(4096, width, triton_norm.FORWARD_TILE, 1.1)
    name, how = f"{width} {'with' if mask else 'without'} dropout", {"num_warps": triton_norm.FORWARD_WARPS}
    types = [BF, BF, *masks, F, F, F, BF, F, F]
    yield compiled(f"norm forward {name}", triton_norm.norm_forward, types, constants, capability, **how)
    constants = {"rows_per_program": triton_norm.ROWS, "stages": triton_norm.STAGES}
    constants |= triton_norm.constants(4096, width, triton_norm.BACKWARD_TILE, 1.1)
    constants |= {} if mask else {"keep_ptr": None, "dy_ptr": None}
    types, how = (
        [BF, BF, *masks, F, F, F, F, BF, BF, *([BF] if mask else []), F],
        {"num_warps": triton_norm.BACKWARD_WARPS},
    )
    yield compiled(f"norm backward {name}", triton_norm.norm_backward, types, constants, capability, **how)


def main() -> None:
    """Prints them."""
    for mask in (True, False):
        programs = [
            norm_programs(width, mask, capability) for capability in (80, 90) for width in (256, 768, 1024, 2048)
        ]
        programs += [attention_programs(positions, 64, mask, 90) for positions in (64, 128, 192, 512)]
        programs += [attention_programs(*shape, mask, 90) for shape in ((48, 32), (512, 32), (128, 16))]
        for line in itertools.chain(*programs):
            print(json.dumps(line))


if __name__ == "__main__":
    main()

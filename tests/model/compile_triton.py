"""Compiles Triton's kernels for GPUs, which need not be there, and prints what their programs spill.

    python -m tests.model.compile_triton

A line of JSON for each: compute capability, kernel, positions or width, and the bytes that the forward and the backward
program write to memory because registers do not hold them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import types
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

sys.modules.setdefault("jax_triton", types.ModuleType("jax_triton"))  # not needed to compile

from bertjax.model.kernels import triton_attention, triton_norm  # noqa: E402


def spilled(kernel: Any, types: list[str], constants: dict[str, Any], capability: int, **options: Any) -> int:
    """Returns the bytes of one program's spills; `types` are those of the parameters that are not constant."""
    free = [name for name in kernel.arg_names if name not in constants]
    signature = dict(zip(free, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in free}  # as jax-triton says
    source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants, aligned)
    ptx = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
    target = re.findall(r"\.target (sm_\w+)", ptx)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [get_ptxas(capability).path, "-v", f"-arch={target}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(re.findall(r"(\d+) bytes spill stores", said.stderr)[0])


def main() -> None:
    """Prints them for Ampere and Hopper."""
    b, f, keep, i = "*bf16", "*fp32", "*i1", "*i32"
    for capability in (80, 90):
        for shape in ((2, 128, 12, 64), (2, 512, 16, 64)):
            how = {key: n for key, n in triton_attention.launch(shape).items() if key != "grid"}
            constants = triton_attention.constants(shape, 1.1)
            types = [b, b, b, i, keep, b, f]
            forward = spilled(triton_attention.forward, types, constants, capability, **how)
            backward = spilled(triton_attention.backward, [*types, b, b, b, b], constants, capability, **how)
            print(json.dumps([capability, "attention", shape[1], forward, backward]))
        for width in (768, 1024, 2048):
            how = {"num_warps": triton_norm.WARPS}
            constants = {"rows": 4096, "epsilon": 1e-12} | triton_norm.constants(width, triton_norm.FORWARD_TILE, 1.1)
            types = [b, b, keep, b, b, b, b, f, f]
            forward = spilled(triton_norm.forward, types, constants, capability, **how)
            constants = {"rows": 4096, "each": triton_norm.ROWS}
            constants |= triton_norm.constants(width, triton_norm.BACKWARD_TILE, 1.1)
            types = [b, b, keep, b, b, f, f, b, b, b, f]
            backward = spilled(triton_norm.backward, types, constants, capability, **how)
            print(json.dumps([capability, "norm", width, forward, backward]))


if __name__ == "__main__":
    main()

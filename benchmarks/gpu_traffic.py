"""What XLA makes of the train step for an H200 that need not be there: how much its kernels move, and what that takes.

    python -m benchmarks.gpu_traffic [--config=FILE --group.field=value ...] [--pairs_per_row=2] [--largest=20]

Needs JAX from 0.11 on with its plugin for CUDA 13 (pip install 'jax[cuda13]'), and no GPU. The step is counted in
bfloat16, whatever the config has. A kernel is taken to last as long as the bytes that it reads and writes at
MEMORY_RATE, or the operations of its products at PRODUCT_RATE, whichever is longer, and GAP. That is no measurement:
steps that were measured took 6 to 14 % longer (docs/log.md). All other arithmetic counts as nothing, such as that of
random bits, and so do products within kernels that XLA only calls, which are those for attention; and with nothing to
try them on XLA chooses otherwise among kernels for a product. But what lies between products, and what of that XLA
fuses, it shows.

Prints a JSON line; before it, to stderr, what computes, and the kernels that take longest, alike ones together.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.result import print_result
from benchmarks.train_step import Configured
from bertjax import command_line, sharding
from bertjax.config import Config
from bertjax.errors import UserError, reported
from bertjax.model import kernels as attention_kernels
from bertjax.planning.compilation import lower_step
from bertjax.planning.hlo import Computations, Operation, array_bytes, read_program, shapes, trips
from bertjax.planning.plan import with_vocabulary

MEMORY_RATE = 4.0e12  # bytes a second, of 4.8e12 on the data sheet
PRODUCT_RATE = 650e12  # operations a second in bfloat16, of 989e12
GAP = 2e-6  # seconds from one kernel to the next

# What XLA asks of a device, from NVIDIA's data sheet of the H200 and the CUDA C++ Programming Guide, table 27.
H200 = """
gpu_device_info {
  name: "NVIDIA H200" device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.19.0"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: 151397597184 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
device_description_str: "NVIDIA H200"
"""

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"}
RUNS_OTHERS = {"while": "body", "call": "to_apply", "async": "calls"}
SLICES, UPDATE = {"slice", "dynamic-slice", "gather"}, "dynamic-update-slice"


class Kernel(NamedTuple):
    """What a kernel moves and computes, `times` in a step."""

    name: str
    type: str  # of its result
    times: int
    read: int  # bytes
    written: int
    flop: int

    @property
    def seconds(self) -> float:
        """What all its runs take."""
        return self.times * (GAP + max((self.read + self.written) / MEMORY_RATE, self.flop / PRODUCT_RATE))


@dataclasses.dataclass(frozen=True)
class Arguments(Configured):
    """Counts what the kernels of a train step move."""

    largest: int = 0
    """Kinds of kernels to show."""


def kernels(entry: str, computations: Computations, times: int = 1) -> Iterator[Kernel]:
    """Yields the kernels that a computation comes to."""
    types = {operation.result: operation.type for operation in computations[entry]}
    for operation in computations[entry]:
        kind = operation.name.removesuffix("-start")  # what others run beside is like what they wait for
        if kind in RUNS_OTHERS:
            runs = trips(operation, computations) if kind == "while" else 1
            yield from kernels(_called(operation, RUNS_OTHERS[kind]), computations, times * runs)
        elif kind not in NO_KERNELS and not kind.endswith(("-done", "-update")):
            inner = computations.get(_called(operation, "calls"), [])
            read = sum(_read(i, types[name], inner) for i, name in enumerate(operation.operands))
            flop = _flop(operation, types, computations)
            yield Kernel(operation.result, operation.type, times, read, _written(operation, inner), flop)


def _called(operation: Operation, how: str) -> str:
    found = re.search(rf"\b{how}=%?([\w.-]+)", operation.rest)
    return found[1] if found else ""


def _read(number: int, type_: str, inner: Sequence[Operation]) -> int:
    """Returns the bytes of an operand that are read: where a fusion only takes slices of it, those."""
    whole = sum(array_bytes(type_))
    for parameter in inner:
        if parameter.name == "parameter" and parameter.rest.startswith(f"{number})"):
            users = _users(parameter, inner)
            in_place = [user for user in users if user.name == UPDATE and user.operands[0] == parameter.result]
            slices = [user for user in users if user.name in SLICES]
            if users and len(in_place) + len(slices) == len(users):
                return min(whole, sum(sum(array_bytes(one.type)) for one in slices))
    return whole


def _users(operation: Operation, inner: Sequence[Operation]) -> list[Operation]:
    users = [user for user in inner if operation.result in user.operands]
    return [one for user in users for one in (_users(user, inner) if user.name == "bitcast" else [user])]


def _written(operation: Operation, inner: Sequence[Operation]) -> int:
    """Returns the bytes of the result that are written: of an array that a fusion updates in place, the update's."""
    inside = {one.result: one for one in inner}
    root = next((one for one in inner if one.root), operation)
    results = [inside[name] for name in root.operands] if root.name == "tuple" else [root]
    written = (inside[one.operands[1]] if one.name == UPDATE and inner else one for one in results)
    return sum(sum(array_bytes(one.type)) for one in written)


def _flop(operation: Operation, types: Mapping[str, str], computations: Computations) -> int:
    """Returns the operations of the products in a kernel: twice the elements of the result times those summed over."""
    if operation.name.startswith("fusion"):
        inner = computations[_called(operation, "calls")]
        of_inner = {one.result: one.type for one in inner}
        return sum(_flop(one, of_inner, computations) for one in inner)
    if operation.name != "dot":
        return 0
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", operation.rest)
    assert summed is not None
    shape = shapes(types[operation.operands[0]])[0]
    over = math.prod(shape[int(number)] for number in re.findall(r"\d+", summed[1]))
    return 2 * math.prod(shapes(operation.type)[0]) * over


def figures(found: list[Kernel]) -> dict[str, Any]:
    """Returns the sums; `other` are kernels without products, or with such as are not seen."""
    other = [kernel for kernel in found if not kernel.flop]
    return {
        "milliseconds": 1e3 * sum(kernel.seconds for kernel in found),
        "other_milliseconds": 1e3 * sum(kernel.seconds for kernel in other),
        "other_gigabytes": sum(kernel.times * (kernel.read + kernel.written) for kernel in other) / 1e9,
        "product_teraflop": sum(kernel.times * kernel.flop for kernel in found) / 1e12,
        "kernels": sum(kernel.times for kernel in found),
    }


def show_largest(found: list[Kernel], number: int) -> None:
    """Prints the kinds of kernels that take longest together: those that move and give the same."""
    alike = collections.defaultdict[Any, list[Kernel]](list)
    for kernel in found:
        name = re.sub(r"[\d.]+$", "", kernel.name)
        alike[name, kernel.type, kernel.read, kernel.written, kernel.flop].append(kernel)
    groups = sorted(alike.values(), key=lambda group: -sum(kernel.seconds for kernel in group))
    for group in groups[:number]:
        milliseconds, times = 1e3 * sum(kernel.seconds for kernel in group), sum(kernel.times for kernel in group)
        one = group[0]
        what = f"{times:4d} x {one.name[:36]:36} {one.type[:48]:48}"
        moved = f"reads {one.read / 1e6:6.1f} MB, writes {one.written / 1e6:6.1f} MB, {one.flop / 1e9:5.1f} GFLOP"
        print(f"{milliseconds:6.2f} ms {what} {moved}", file=sys.stderr)


def h200() -> jax.sharding.Mesh:
    """Returns a mesh of one. Raises: UserError without the plugin that has the compiler."""
    from jax.experimental import topologies

    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver whose version could be checked
    jax.config.update("jax_platforms", "cpu")
    try:
        topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H200)
    except RuntimeError as error:
        raise UserError(f"there is no compiler for GPUs: {error}; pip install 'jax[cuda13]>=0.11'") from error
    chip: np.ndarray = np.array(topology.devices).reshape(1, 1, 1)
    return jax.sharding.Mesh(chip, sharding.AXES, axis_types=(jax.sharding.AxisType.Explicit,) * 3)


def believe_in_cudnn() -> None:
    """Lets JAX lower what calls cuDNN: it would ask the GPU what it can."""
    from jax._src.cudnn import fused_attention_stablehlo as stablehlo

    stablehlo.check_cudnn_version = lambda: 91_900
    stablehlo.check_compute_capability = lambda _: True


def checked(a: Arguments, mesh: jax.sharding.Mesh) -> Config:
    """Returns the config in bfloat16. Raises: UserError where train.py would refuse it there."""
    c = with_vocabulary(a.config)
    c = dataclasses.replace(c, train=dataclasses.replace(c.train, precision="bfloat16"))
    sharding.mesh_sizes(c.mesh, 1)  # or that is the error
    sharding.check_batch(c.train.batch_size, mesh, microbatches=c.train.microbatches)
    device, rows = sharding.device_of(mesh), {"positions": c.data.seq_len, "most_spans": a.pairs_per_row}
    attention = attention_kernels.check(c.model, device, dtype="bfloat16", **rows)
    print(attention_kernels.describe([attention], attention_kernels.norm_of(c.model, device)), file=sys.stderr)
    return c


def measure(a: Arguments) -> dict[str, Any]:
    """Returns the figures of a config's step."""
    mesh = h200()
    c = checked(a, mesh)
    believe_in_cudnn()
    lowered, _ = lower_step(c, mesh, pairs_per_row=a.pairs_per_row, next_sentence=True)
    compiled: Any = lowered.compile()
    found = list(kernels(*read_program(compiled.as_text())))
    show_largest(found, a.largest)
    return figures(found) | {"gigabytes_of_temporaries": compiled.memory_analysis().temp_size_in_bytes / 1e9}


def main() -> None:
    """The command."""
    a = command_line.arguments_of(Arguments, __doc__ or "")
    with reported():
        print_result("gpu_traffic", measure(a), "jax", "jaxlib")


if __name__ == "__main__":
    main()

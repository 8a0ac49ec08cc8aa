"""The chips that runs are planned for, and what can be had of them."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from bertjax.errors import UserError
from bertjax.training.metrics import PEAK_FLOPS

GIB = 2**30


class Chip(NamedTuple):
    """What a chip can do, by its maker's data sheet."""

    kind: str  # as JAX says it, and PEAK_FLOPS has it
    memory: float  # bytes that a program can have
    memory_rate: float  # bytes/s
    link_rate: float  # bytes/s that leave the chip for others of its slice or node, all links together
    network_rate: float  # bytes/s that leave it over the data-centre network, its share of the host's
    shapes: tuple[str, ...] = ()  # of TPU slices

    @property
    def peak(self) -> float:
        """Dense bfloat16 matrix products, FLOP/s."""
        return PEAK_FLOPS[self.kind]


FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16", "16x16x24")

# Sources: docs.cloud.google.com/tpu/docs/v5e, v6e and v5p, tables of key specifications and of configurations. They
# give the links both ways together: half of it leaves the chip. Of v5e and v6e a host of 8 chips has 2 x 100 and
# 4 x 200 Gbit/s. The memory is what libtpu lets a program have, which its out-of-memory errors say.
TPUS = {
    "v5e": Chip("TPU v5e", 15.75 * GIB, 819e9, 200e9, 3.125e9, FLAT),
    "v5p": Chip("TPU v5p", 95.74 * GIB, 2765e9, 600e9, 6.25e9, CUBES),
    "v6e": Chip("TPU v6e", 31.25 * GIB, 1600e9, 400e9, 12.5e9, FLAT),
}


# Sources: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM; half of NVLink's both ways together; a network
# port a GPU, of 200 and of 400 Gbit/s, as in DGX A100 and DGX H100. Of the memory JAX takes three quarters by default.
GPUS = {
    "a100": Chip("NVIDIA A100", 0.75 * 80e9, 2039e9, 300e9, 25e9),
    "h100": Chip("NVIDIA H100", 0.75 * 80e9, 3350e9, 450e9, 50e9),
    "h200": Chip("NVIDIA H200", 0.75 * 141e9, 4800e9, 450e9, 50e9),
}
NODE = 8
"""GPUs that NVLink joins."""


class Topology(NamedTuple):
    """A pod, or several slices of one shape that the data-centre network joins; nodes of GPUs are slices."""

    name: str
    chip: Chip
    slices: int
    chips: int  # of all slices
    compiled: bool = True  # whether there is a compiler that needs no such chip


def find_topology(name: str, slices: int = 1) -> Topology:
    """Returns the pod or the GPUs of that name. Raises: UserError, with the known ones, if there are none."""
    if slices < 1:
        raise UserError(f"--slices={slices} is not greater than 0")
    if gpus := re.fullmatch(rf"({'|'.join(GPUS)})x([1-9]\d*)", name):
        return _gpus(name, GPUS[gpus[1]], int(gpus[2]), slices)
    family, _, shape = name.partition(":")
    if family not in TPUS or shape not in TPUS[family].shapes:
        known = [f"{family}:{{{','.join(chip.shapes)}}}" for family, chip in TPUS.items()]
        raise UserError(f"--topology={name} is unknown; use one of {'; '.join(known)}; {{{','.join(GPUS)}}}xNUMBER")
    chips = math.prod(int(side) for side in shape.split("x"))
    return Topology(name, TPUS[family], slices, slices * chips)


def _gpus(name: str, chip: Chip, number: int, slices: int) -> Topology:
    if slices > 1:
        raise UserError(f"--slices={slices} is of TPUs; give all GPUs together, as in --topology=h100x{8 * slices}")
    if number > NODE and number % NODE:
        raise UserError(f"--topology={name}: a node has {NODE} GPUs; use a multiple of it, or fewer")
    return Topology(name, chip, -(-number // NODE), number, compiled=False)


def devices(topology: Topology) -> list[jax.Device]:
    """Returns the pod's devices, which can be compiled for and nothing else; of GPUs none, there is no such compiler.

    Raises: UserError without libtpu.
    """
    if not topology.compiled:
        return []
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs an extra: pip install 'bertjax[plan]'")
    # Without these libtpu looks for TPUs, and for the cloud that it runs in.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    how: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.chips == topology.slices:
        how["chips_per_host_bounds"] = [1, 1, 1]  # by default a host has four
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **how).devices)

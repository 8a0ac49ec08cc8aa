"""The mesh, and the one table that says how every tensor is cut over it.

Axes: `data` cuts the batch; `fsdp` cuts the batch and, with it, the weights; `model` cuts heads, feed-forward and
vocabulary. The axes are explicit: sharding is part of an array's type, so a wrong one is an error while tracing.

The name of a spec is the tensor's role and its dimensions: B batch (rows), S position, D width, H heads, K head width,
F feed-forward, V vocabulary, M predicted positions, N the three of query, key and value, or the two of
a gated layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from bertjax.config import MeshConfig
from bertjax.errors import UserError

AXES = ("data", "fsdp", "model")
AnyMesh = jax.sharding.Mesh | jax.sharding.AbstractMesh
BATCH = ("data", "fsdp")

# Weights. The embedding is cut over the vocabulary only: cut on the width, XLA replicates its gradient.
QKV_NDHK, QKV_BIAS_NHK = P(None, "fsdp", "model", None), P(None, "model", None)
OUT_HKD = P("model", None, "fsdp")
UP_DF, UP_BIAS_F = P("fsdp", "model"), P("model")
UP_DNF = P("fsdp", None, "model")
DOWN_FD = P("model", "fsdp")
DENSE_DD = P("fsdp", None)
EMBED_VD, VOCAB_BIAS_V = P(("model", "fsdp"), None), P(("model", "fsdp"))
REPLICATED = P()

# Activations keep the batch on its axes.
ACT_B = P(BATCH)
ACT_BSF = P(BATCH, None, "model")
ACT_BSNF = P(BATCH, None, None, "model")
ACT_BSHK = P(BATCH, None, "model", None)
ACT_BSNHK = P(BATCH, None, None, "model", None)
LOGITS_BMV, LOGITS_V = P(BATCH, None, "model"), P("model")


def make_mesh(c: MeshConfig, devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Returns the (data, fsdp, model) mesh over `devices`, by default all there are.

    Where there are several slices, `data` is cut over them first.

    Raises: UserError if the sizes do not multiply out to the number of devices, or the slices are others.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(c, len(devices))
    slices = len({slice_of(device) for device in devices})
    if c.slices not in (-1, slices):
        raise UserError(f"mesh.slices={c.slices}, but the devices are of {slices}; start as many, or leave it at -1")
    # A side of a TPU's torus may be cut over two axes: 32 x 32 fit on 8 x 8 x 16 in no other way.
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    else:
        between = ways_between(slices, sizes)
        within = [size // ways for size, ways in zip(sizes, between, strict=True)]
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(grid, AXES, (AxisType.Explicit,) * 3)


def device_of(mesh: AnyMesh) -> tuple[str, str]:
    """Returns (device_kind, platform) of the mesh, those of a CPU where it has no devices."""
    device = mesh.abstract_mesh.abstract_device
    return ("cpu", "cpu") if device is None else (device.device_kind, device.platform)


def mesh_sizes(c: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Returns the sizes of (data, fsdp, model) on so many devices.

    Raises: UserError if they do not multiply out to them.
    """
    sizes = [c.data, c.fsdp, c.model]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, devices // -math.prod(sizes))
    if math.prod(sizes) != devices:
        raise UserError(
            f"mesh (data, fsdp, model) = ({c.data}, {c.fsdp}, {c.model}) does not multiply out to the {devices}"
            " devices there are; -1 for one of them fills up"
        )
    return sizes[0], sizes[1], sizes[2]


def slice_of(device: jax.Device) -> int:
    """Returns which slice a device is of: between slices data go over the data-centre network, which is slow."""
    return int(getattr(device, "slice_index", 0))


def ways_between(slices: int, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Returns how many ways of (data, fsdp, model) lie between slices: of data, then of fsdp, which sends more.

    Raises: UserError if they do not have so many.
    """
    data = math.gcd(slices, sizes[0])
    if sizes[1] % (slices // data):
        raise UserError(f"mesh.data={sizes[0]} does not divide over {slices} slices; use a multiple of {slices}")
    return data, slices // data, 1


def batch_shards(mesh: AnyMesh) -> int:
    """Returns how many ways the batch is cut."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


class HeldRows(NamedTuple):
    """The rows of a global batch that this process reads, because its devices hold them."""

    batch_size: int
    numbers: Sequence[int]
    """Ascending; contiguous, unless the mesh interleaves the chips of several hosts."""


def held_rows(batch_size: int, mesh: jax.sharding.Mesh) -> HeldRows:
    """Returns this process's rows; what the batch as a whole is does not depend on how it is cut."""
    held = jax.NamedSharding(mesh, ACT_B).addressable_devices_indices_map((batch_size,))
    cuts = {index[0].indices(batch_size) for index in held.values() if index}
    return HeldRows(batch_size, sorted(row for cut in cuts for row in range(*cut)))


def check_batch(batch_size: int, mesh: AnyMesh, name: str = "train.batch_size", microbatches: int = 1) -> None:
    """Raises UserError, naming the nearest sizes that would do, unless every microbatch divides over the mesh."""
    shards = batch_shards(mesh) * microbatches
    if batch_size % shards:
        cuts = f"{batch_shards(mesh)} data shards" + (f" x {microbatches} microbatches" if microbatches > 1 else "")
        below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
        remedy = f"{below} or {above}" if below else f"{above}"
        raise UserError(f"{name}={batch_size} does not divide over {cuts}; use {remedy}")

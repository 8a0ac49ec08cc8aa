"""What a config will need on a pod: memory, arithmetic, network, time. Computed, not measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from bertjax import backend, sharding
from bertjax.config import Config, ModelConfig
from bertjax.data.batches import full_batch
from bertjax.model import kernels
from bertjax.model.encoder import check_mesh
from bertjax.planning.compilation import Step, compile_step
from bertjax.planning.formulas import estimate_step
from bertjax.planning.hardware import Topology
from bertjax.training.flops import Flops, flops_by_part

VOCABULARY = 30_522
"""Entries of BERT's vocabulary: what is planned with where the config leaves it to the tokenizer."""

SLOW = 2.0
"""At most, everything runs at half of its data sheet's rate."""


class Bounds(NamedTuple):
    """Seconds a step at the data sheet's rates, of each by itself."""

    compute: float
    """The products, those that are computed again too."""
    memory: float
    """Arguments read, outputs written, temporaries written and read, all once."""
    links: float
    """What leaves a chip for others of its slice."""
    network: float
    """What leaves it for other slices."""

    @property
    def least(self) -> float:
        """All at once."""
        return max(self)

    @property
    def most(self) -> float:
        """One after the other, slowly."""
        return SLOW * sum(self)


class Plan(NamedTuple):
    """What was found out of a phase of a run on a pod."""

    config: Config
    topology: Topology
    mesh: dict[str, int]
    pairs_per_row: int
    steps: int
    step: Step

    @property
    def fits(self) -> bool:
        """Whether a chip's memory is enough."""
        return self.step.memory is not None and self.step.needed <= self.topology.chip.memory


def make_plan(
    c: Config,
    topology: Topology,
    devices: Sequence[jax.Device],
    *,
    steps: int | None = None,
    pairs_per_row: int = 1,
    next_sentence: bool = True,
) -> Plan:
    """Returns what `steps` steps, by default all, come to on the pod: compiled for its `devices`, if it has any.

    Raises: UserError where train.py would refuse the config on such devices.
    """
    c = with_precision(with_vocabulary(c), devices)
    how: dict[str, Any] = {"pairs_per_row": pairs_per_row, "next_sentence": next_sentence}
    mesh = sharding.make_mesh(c.mesh, list(devices)) if devices else _abstract_mesh(c, topology)
    sharding.check_batch(c.train.batch_size, mesh, microbatches=c.train.microbatches)
    check_mesh(c.model, mesh)
    rows: dict[str, Any] = {"positions": c.data.seq_len, "dtype": c.train.precision, "most_spans": pairs_per_row}
    kernels.check(c.model, sharding.device_of(mesh) if devices else (topology.chip.kind, "gpu"), **rows)
    if isinstance(mesh, jax.sharding.Mesh):
        step = compile_step(c, mesh, **how)
    else:
        step = estimate_step(c, mesh, per_slice=topology.chips // topology.slices, **how)
    return Plan(c, topology, dict(mesh.shape), pairs_per_row, c.train.steps if steps is None else steps, step)


def _abstract_mesh(c: Config, topology: Topology) -> jax.sharding.AbstractMesh:
    explicit = (jax.sharding.AxisType.Explicit,) * len(sharding.AXES)
    return jax.sharding.AbstractMesh(sharding.mesh_sizes(c.mesh, topology.chips), sharding.AXES, axis_types=explicit)


def with_vocabulary(c: Config) -> Config:
    """Returns the config with a vocabulary of BERT's size, if it has none of its own."""
    model = dataclasses.replace(c.model, vocab_size=c.model.vocab_size or VOCABULARY)
    return dataclasses.replace(c, model=model)


def with_precision(c: Config, devices: Sequence[jax.Device]) -> Config:
    """Returns the config with the precision that train.py takes for "auto"; without devices, those of GPUs."""
    if c.train.precision != "auto":
        return c
    precision = backend.fastest_precision(devices[0]) if devices else "bfloat16"
    return dataclasses.replace(c, train=dataclasses.replace(c.train, precision=precision))


def step_flops(p: Plan) -> Flops:
    """Returns the FLOPs of a step on all chips, every row being full, nothing recomputed."""
    row = full_batch(p.config.data, 1, p.pairs_per_row)
    tokens = p.config.train.batch_size * p.config.data.seq_len
    parts = flops_by_part(p.config.model, p.config.model.vocab_size or VOCABULARY, row)
    return Flops(*(tokens * part for part in parts))


def recomputed(c: ModelConfig, flops: Flops) -> float:
    """Returns the FLOPs that rematerialisation adds: a forward pass, a third of them, of what is not kept."""
    return {"none": 0.0, "products": flops.attention / 3, "block": (flops.body + flops.attention) / 3}[c.remat]


def bounds(p: Plan) -> Bounds:
    """Returns the bounds of a step that fits."""
    assert p.step.memory is not None
    chip, memory, flops = p.topology.chip, p.step.memory, step_flops(p)
    return Bounds(
        compute=(sum(flops) + recomputed(p.config.model, flops)) / p.topology.chips / chip.peak,
        memory=(memory.arguments + memory.outputs + 2 * memory.temporaries) / chip.memory_rate,
        links=sum(one.within for one in p.step.collectives) / chip.link_rate,
        network=sum(one.between for one in p.step.collectives) / chip.network_rate,
    )


def figures(p: Plan) -> dict[str, Any]:
    """Returns all of it: bytes, seconds, FLOPs."""
    c, topology = p.config, p.topology
    found: dict[str, Any] = {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "mesh": p.mesh,
        "seq_len": c.data.seq_len,
        "rows_per_step": c.train.batch_size,
        "rows_per_chip": c.train.batch_size / topology.chips,
        "microbatches": c.train.microbatches,
        "remat": c.model.remat,
        "vocabulary": c.model.vocab_size,
        "steps": p.steps,
        "measured": False,
        "compile_seconds": p.step.compile_seconds,
        "fits": p.fits,
        "memory": {"needed": p.step.needed, "available": topology.chip.memory},
        "flops_per_step": sum(step_flops(p)),
    }
    if p.step.memory is None:
        return found
    found["memory"] |= p.step.memory._asdict()
    found["collectives"] = [
        dataclasses.asdict(one) | {"within": one.within, "between": one.between} for one in p.step.collectives
    ]
    return found | _times(p)


def _times(p: Plan) -> dict[str, Any]:
    """Returns what follows from the bounds, each as [at best, at worst]."""
    found, chips = bounds(p), p.topology.chips
    seconds = [found.least, found.most]
    peak = chips * p.topology.chip.peak
    return {
        "bounds": found._asdict(),
        "seconds_per_step": seconds,
        "mfu": [sum(step_flops(p)) / peak / s for s in seconds],
        "days": [s * p.steps / 86400 for s in seconds],
        "chip_hours": [s * p.steps * chips / 3600 for s in seconds],
    }

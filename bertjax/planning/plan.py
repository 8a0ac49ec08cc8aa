"""What a config will need on a pod: memory, arithmetic, network, time. Computed, not measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from bertjax import sharding
from bertjax.config import Config, ModelConfig
from bertjax.data.batches import full_batch
from bertjax.model.encoder import check_mesh
from bertjax.planning.collectives import Collective, read_collectives
from bertjax.planning.compilation import Compiled, TooLarge, compile_step
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
    """What was found out of a config on a pod."""

    config: Config
    topology: Topology
    mesh: dict[str, int]
    pairs_per_row: int
    compiled: Compiled | TooLarge
    collectives: list[Collective]

    @property
    def fits(self) -> bool:
        """Whether a chip's memory is enough."""
        return isinstance(self.compiled, Compiled)


def make_plan(
    c: Config,
    topology: Topology,
    devices: Sequence[jax.Device],
    *,
    pairs_per_row: int = 1,
    next_sentence: bool = True,
) -> Plan:
    """Returns what the train step comes to on the pod, whose `devices` it is compiled for.

    Raises: UserError where train.py would refuse the config on such devices.
    """
    c = with_vocabulary(c)
    mesh = sharding.make_mesh(c.mesh, list(devices))
    sharding.check_batch(c.train.batch_size, mesh, microbatches=c.train.microbatches)
    check_mesh(c.model, mesh)
    compiled = compile_step(c, mesh, pairs_per_row=pairs_per_row, next_sentence=next_sentence)
    slices = [sharding.slice_of(device) for device in mesh.devices.flat]
    sent = read_collectives(compiled.hlo, mesh.shape, slices) if isinstance(compiled, Compiled) else []
    return Plan(c, topology, dict(mesh.shape), pairs_per_row, compiled, sent)


def needed(p: Plan) -> int:
    """Returns the bytes that a chip needs."""
    return p.compiled.memory.needed if isinstance(p.compiled, Compiled) else p.compiled.needed


def with_vocabulary(c: Config) -> Config:
    """Returns the config with a vocabulary of BERT's size, if it has none of its own."""
    model = dataclasses.replace(c.model, vocab_size=c.model.vocab_size or VOCABULARY)
    return dataclasses.replace(c, model=model)


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
    assert isinstance(p.compiled, Compiled)
    chip, memory, flops = p.topology.chip, p.compiled.memory, step_flops(p)
    return Bounds(
        compute=(sum(flops) + recomputed(p.config.model, flops)) / p.topology.chips / chip.peak,
        memory=(memory.arguments + memory.outputs + 2 * memory.temporaries) / chip.memory_rate,
        links=sum(one.within for one in p.collectives) / chip.link_rate,
        network=sum(one.between for one in p.collectives) / chip.network_rate,
    )


def as_json(p: Plan) -> dict[str, Any]:
    """Returns all of it: bytes, seconds, FLOPs."""
    c, topology = p.config, p.topology
    found: dict[str, Any] = {
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "mesh": p.mesh,
        "rows_per_step": c.train.batch_size,
        "rows_per_chip": c.train.batch_size / topology.chips,
        "microbatches": c.train.microbatches,
        "remat": c.model.remat,
        "vocabulary": c.model.vocab_size,
        "measured": False,
        "compile_seconds": p.compiled.seconds,
        "fits": p.fits,
        "memory": {"needed": needed(p), "available": topology.chip.memory},
        "flops_per_step": sum(step_flops(p)),
    }
    if isinstance(p.compiled, TooLarge):
        return found
    found["memory"] |= p.compiled.memory._asdict()
    found["collectives"] = [
        dataclasses.asdict(one) | {"within": one.within, "between": one.between} for one in p.collectives
    ]
    return found | _times(p)


def _times(p: Plan) -> dict[str, Any]:
    """Returns what follows from the bounds, each as [at best, at worst]."""
    found, steps, chips = bounds(p), p.config.train.steps, p.topology.chips
    seconds = [found.least, found.most]
    peak = chips * p.topology.chip.peak
    return {
        "bounds": found._asdict(),
        "seconds_per_step": seconds,
        "mfu": [sum(step_flops(p)) / peak / s for s in seconds],
        "steps": steps,
        "days": [s * steps / 86400 for s in seconds],
        "chip_hours": [s * steps * chips / 3600 for s in seconds],
    }

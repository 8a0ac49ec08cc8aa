"""The train step of train.py, ready to be timed, and what the machine's matrix products reach beside it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from benchmarks import memory
from benchmarks.alternation import Trial
from bertjax import backend, sharding
from bertjax.config import Config, MeshConfig
from bertjax.data.batches import Batch
from bertjax.errors import UserError
from bertjax.model import kernels
from bertjax.training import step
from bertjax.training.metrics import peak_flops
from bertjax.training.pretraining import make_pretraining

Change = Callable[[], None]


def our_step(
    c: Config,
    batch: Batch,
    next_sentence: bool,
    devices: int | None = None,
    change: Change | None = None,
    donate: bool = True,
) -> Trial:
    """Returns the step of a run of this config on this batch, after `change`, if there is one, replaced some part.

    It has the config's mesh on all devices, or, if their number is given, its rows cut over so many.
    """
    if change is not None:
        change()
    backend.start()
    jax.config.update("jax_enable_compilation_cache", False)  # the time to compile is one of the figures
    mesh = sharding.make_mesh(c.mesh if devices is None else MeshConfig(), jax.devices()[:devices])
    sharding.check_batch(c.train.batch_size, mesh, microbatches=c.train.microbatches)
    jax.set_mesh(mesh)
    if c.train.precision == "auto":
        precision = backend.fastest_precision(mesh.devices.flat[0])
        c = dataclasses.replace(c, train=dataclasses.replace(c.train, precision=precision))
    if mesh.devices.flat[0].platform == "cpu" and not backend.only_cpus():
        raise UserError(
            "jax found no accelerator, though this machine has one; end what holds it, or JAX_PLATFORMS=cpu"
        )
    (_, positions), (_, pairs) = batch["ids"].shape, batch["cls"].shape
    attention = kernels.check(
        c.model, sharding.device_of(mesh), positions=positions, dtype=c.train.precision, most_spans=pairs
    )
    run = make_pretraining(c, next_sentence=next_sentence)
    train_step: Any = run.train_step if donate else jax.jit(getattr(run.train_step, "__wrapped__"))  # noqa: B009
    state = step.first_state(step.fresh_params(run.make_model, c.train.seed), run.optimizer)
    sent = step.to_mesh(batch, mesh)
    started = time.perf_counter()
    train_step = train_step.lower(state, sent).compile()
    compile_seconds = time.perf_counter() - started

    def steps(number: int) -> float:
        nonlocal state
        started = time.perf_counter()
        for _ in range(number):
            state, figures = train_step(state, sent)
        jax.block_until_ready((state, figures))
        return time.perf_counter() - started

    def dispatch() -> float:
        """Returns the seconds until Python has the step's result, which the device has only begun to compute."""
        nonlocal state
        started = time.perf_counter()
        state, _ = train_step(state, sent)
        seconds = time.perf_counter() - started
        jax.block_until_ready(state)
        return seconds

    def facts() -> dict[str, Any]:
        return {
            "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
            "attention": attention,
            "norm": kernels.norm_of(c.model, sharding.device_of(mesh)),
            "peak_flops": peak_flops(),
            "compile_seconds": compile_seconds,
            "host_seconds": statistics.median(dispatch() for _ in range(10)),
            "gigabytes": peak_bytes() / 1e9,
        }

    return Trial(steps, facts)


def our_products(precision: Literal["float32", "bfloat16"]) -> Trial:
    """Returns a product of two square matrices; `flop` says how much a step of it is."""
    backend.start()
    size = 2048 if jax.default_backend() == "cpu" else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), precision)  # GPUs are faster with ones
    product = jax.jit(jnp.matmul)

    def steps(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            y = product(x, x)
        y.block_until_ready()
        return time.perf_counter() - started

    steps(1)
    return Trial(steps, lambda: {"flop": 2.0 * size**3})


def peak_bytes() -> int:
    """Returns the most memory that was used: of the device, or, where it does not say, of this process."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else memory.peak_bytes()

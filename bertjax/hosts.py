"""Several processes, one run: how they find each other, agree, speak with one voice, and leave when one is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec as P

from bertjax.config import MeshConfig
from bertjax.errors import UserError

T = TypeVar("T")
LOST_PEER = 134  # also the exit code of JAX's own abort when a process is missing; launchers start again on it
# What the transports (Gloo, NCCL, gRPC) and JAX's coordination service say when a peer is gone.
SIGNS_OF_LOSS = ("gloo", "nccl", "unavailable", "connection", "heartbeat", "coordination", "deadline_exceeded")


@contextlib.contextmanager
def joined(c: MeshConfig) -> Iterator[None]:
    """Makes this process one of the run's, if there are several; enter it before anything asks for a device.

    Where there are several, an error is printed with the process's number, and the process leaves at once: a normal
    exit would wait for the others, which wait for it.
    """
    _start(c)
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
    except Exception as error:  # whatever it is: raised on, it would wait for the others at the exit, and they for it
        if loss := _loss_of_peer(error):
            _leave(
                f"error: another process of the run is gone ({loss[:200]}); start all of them again to go on", LOST_PEER
            )
        elif isinstance(error, UserError | OSError):
            _leave(f"error: {error}", 1)
        else:  # a bug of ours, or no memory
            _leave(traceback.format_exc(), 1)


def _loss_of_peer(error: BaseException | None) -> str | None:
    """Returns what JAX says of a lost process, if that is behind an error: Orbax makes a TimeoutError of it."""
    while error is not None:
        line = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, jax.errors.JaxRuntimeError) and any(sign in line.lower() for sign in SIGNS_OF_LOSS):
            return line
        error = error.__cause__
    return None


def _start(c: MeshConfig) -> None:
    """Starts jax.distributed with what the flags say, or else with what the launcher provides."""
    if c.coordinator is None and not _launched_with_others():
        return
    try:
        jax.distributed.initialize(
            None if c.coordinator == "auto" else c.coordinator,
            c.processes,
            c.process,
            heartbeat_timeout_seconds=c.heartbeat_seconds,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the processes of the run did not find each other ({str(error).splitlines()[0]}); name them by"
            " --mesh.coordinator=HOST:PORT --mesh.processes=N --mesh.process=I"
        ) from error


def _launched_with_others() -> bool:
    """Tells by what Slurm's srun, Open MPI's mpirun and GKE (TPU slices) put into the environment."""
    counts = [os.environ.get(name, "1") for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    return max(map(int, counts)) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _leave(line: str, code: int) -> NoReturn:
    print(f"process {jax.process_index()}: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def is_first() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return jax.process_index() == 0


def say(line: str) -> None:
    """Prints a line to stderr, once for all processes."""
    if is_first():
        print(line, file=sys.stderr, flush=True)


def wait_for_all(name: str) -> None:
    """Returns when every process is here; `name` tells the places apart."""
    multihost_utils.sync_global_devices(name)


def anywhere(here: bool) -> bool:
    """Returns whether it is so in any process; waits for all of them."""
    return here if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(here)).any())


def of_first(numbers: T) -> T:
    """Returns the numbers, a tree of them, that the first process has, as floats; waits for all of them."""
    agreed: T = jax.tree.map(
        float, numbers if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(numbers)
    )
    return agreed


def whole(x: jax.Array) -> np.ndarray:
    """Returns all of an array that the devices of all processes share; waits for all of them."""
    alone = jax.process_count() == 1
    return np.asarray(jax.device_get(x) if alone else multihost_utils.process_allgather(x, tiled=True))


def check_same(facts: Mapping[str, Any]) -> None:
    """Raises UserError in every process, naming the facts, if a process has others than the first (JSON values)."""
    if jax.process_count() == 1:
        return
    names = sorted(facts)
    for what in ({"version of bertjax": names}, facts):  # the names first: as many digests everywhere
        digests = np.array([_digest(what[name]) for name in sorted(what)], np.uint8)
        all_digests = np.asarray(multihost_utils.process_allgather(digests)).reshape(-1, *digests.shape)
        other = (all_digests != all_digests[0]).any(axis=-1)  # [process, fact]
        if other.any():
            process = int(np.argmax(other.any(axis=1)))
            shown = [name for name, differs in zip(sorted(what), other[process], strict=True) if differs]
            raise UserError(
                f"process {process} has another {', '.join(shown)} than process 0;"
                " start all with the same command on the same data"
            )


def _digest(value: Any) -> list[int]:
    return list(hashlib.blake2b(json.dumps(value).encode(), digest_size=8).digest())


def largest(value: int) -> jax.Array:
    """Returns the largest value of all processes, not waited for: each calls it as often. Needs a mesh."""
    mesh = jax.sharding.get_mesh()
    each = jax.NamedSharding(mesh, P(mesh.axis_names))
    return _largest(jax.make_array_from_callback((mesh.size,), each, lambda _: np.full(1, value, np.int32)))


_largest = jax.jit(jnp.max)

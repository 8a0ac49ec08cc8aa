"""Checkpoints: what a run needs to go on, written in the background, checked when it is read. The one place for Orbax.

A checkpoint is three parts: `params` and `rest` (step and optimizer), each a flat {name: array}, and `record`, a JSON
object with a checksum for every array and the run's counters. Orbax notices neither a flipped bit nor a type that it
casts, and raises one exception for damage and for a wrong model, so names, shapes and types are compared first (a
mismatch is an error) and the sums last (damage: the checkpoint before is used, and said so).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from etils import epath
from orbax.checkpoint import v1 as ocp

from bertjax import hosts, storage
from bertjax.config import CheckpointConfig
from bertjax.errors import UserError
from bertjax.model.params import Params, name_of
from bertjax.training.step import TrainState

T = TypeVar("T")
Arrays = dict[str, jax.Array]
UNREACHABLE = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
"""What TensorStore says, in a ValueError, of files that may be whole."""
PARAMS, REST, RECORD = "params", "rest", "record"
STEP = "step"
"""Among the figures that a checkpoint is saved with, so that of equals the earliest is kept."""


class Checkpoints:
    """The checkpoints of a workdir, for the run that writes them."""

    def __init__(self, folder: storage.Folder, c: CheckpointConfig, *, best: str | None = None):
        """Opens those of a run's folder; the one whose figure `best` is the highest is kept, too."""
        keeps = ocp.training.preservation_policies
        policies: list[Any] = [keeps.LatestN(c.keep)]
        if c.keep_every is not None:
            policies.append(keeps.EveryNSteps(c.keep_every))
        if best is not None:
            policies.append(
                keeps.BestN(
                    get_metric_fn=lambda figures: (figures[best], -figures.get(STEP, 0)),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self._folder = folder
        self._directory, self._damaged = _directory(folder.path), storage.absolute(folder.path) / "damaged"
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=keeps.AnyPreservationPolicy(policies),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and jax.process_count() > 1:
            return  # to close is to wait for the other processes, of which one may be gone
        with _explained(self._directory):
            self._checkpointer.close()

    @property
    def steps(self) -> list[int]:
        """The steps there are checkpoints of, ascending."""
        return [checkpoint.step for checkpoint in self._checkpointer.checkpoints]

    def save(
        self, state: TrainState, step: int, counters: Mapping[str, Any], *, figures: Mapping[str, float] | None = None
    ) -> None:
        """Starts to save; returns when the arrays are copied off the device, so that they may be donated.

        The run's other files go along, if it is kept in an object store.

        `counters` is any JSON object, given back by `restore`; `figures`, {name: value}, is what `best` looks at.
        """
        if self.steps and self.steps[-1] == step:
            return
        params, rest = _split(state)
        sums = {name: int(x) for name, x in jax.device_get(_checksums(params | rest)).items()}
        parts = {PARAMS: params, REST: rest, RECORD: {"checksums": sums, "counters": dict(counters)}}
        metrics = None if figures is None else {**figures, STEP: step}
        self._folder.send()  # before it: a run that goes on from it has all lines up to it
        with _explained(self._directory):
            self._checkpointer.save_checkpointables_async(step, parts, metrics=metrics)

    def restore(self, abstract: TrainState, mesh: jax.sharding.Mesh) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns the newest good state, placed on the mesh, and its counters; None if there is no checkpoint.

        A damaged one is moved to the workdir's `damaged` folder, and a line says so.

        Raises: UserError if a checkpoint is of another model, or if all are damaged.
        """
        tried = []
        for step in reversed(self.steps):
            try:
                arrays, counters = _load(self._directory / str(step), _split(abstract), mesh)
            except Damaged as damage:
                self._set_aside(step, damage)
                tried.append(step)
                continue
            return _join(abstract, arrays), counters
        if tried:
            raise UserError(
                f"every checkpoint in {self._directory} was damaged (steps {tried}, now in {self._damaged});"
                " start again in a new workdir, or copy a good checkpoint back"
            )
        return None

    def _set_aside(self, step: int, damage: Damaged) -> None:
        hosts.wait_for_all(f"checkpoint {step} is not read any more")
        if hosts.is_first():
            self._damaged.mkdir(exist_ok=True)
            (self._damaged / str(step)).rmtree(missing_ok=True)
            (self._directory / str(step)).rename(self._damaged / str(step))
        hosts.wait_for_all(f"checkpoint {step} is moved")
        self._checkpointer.reload()
        hosts.say(
            f"warning: the checkpoint of step {step} is damaged ({damage}); moved to {self._damaged / str(step)},"
            " going on from the one before"
        )


class Damaged(Exception):
    """A checkpoint cannot be read, or reads other than it was written."""


def _directory(workdir: epath.PathLike) -> epath.Path:
    return storage.absolute(workdir) / "checkpoints"


def load_params(workdir: epath.PathLike, abstract: Params, *, step: int | None = None) -> Params:
    """Returns the weights of a workdir's newest checkpoint, or of the one of `step`, placed as `abstract` says.

    Needs a mesh (`jax.set_mesh`). Raises: UserError if there is none, it is damaged, or it is of another model.
    """
    directory, steps = _directory(workdir), saved_steps(workdir)
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step} in {directory}; there are {steps}")
    path = directory / str(newest_step(workdir) if step is None else step)
    try:
        (params, _), _ = _load(path, (_named(abstract), {}), jax.sharding.get_mesh())
    except Damaged as damage:
        raise UserError(f"the checkpoint {path} is damaged ({damage}); name another of the steps {steps}") from damage
    return _unnamed(abstract, params)


def newest_step(workdir: epath.PathLike) -> int:
    """Returns the step of the newest checkpoint. Raises: UserError if there is none."""
    steps = saved_steps(workdir)
    if not steps:
        raise UserError(f"no checkpoint in {_directory(workdir)}; there are []")
    return steps[-1]


def saved_steps(workdir: epath.PathLike) -> list[int]:
    """Returns the steps that a workdir has whole checkpoints of, ascending."""
    directory = _directory(workdir)
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit()) if directory.is_dir() else []


def best_step(workdir: epath.PathLike, figure: str) -> int:
    """Returns the step of the checkpoint whose saved figures have the highest `figure`, the earliest of equals."""
    with ocp.training.Checkpointer(_directory(workdir)) as checkpointer:
        scored = [(c.metrics[figure], -c.step) for c in checkpointer.checkpoints if c.metrics]
    if not scored:
        raise UserError(f"no checkpoint with {figure} in {workdir}")
    return -max(scored)[1]


def saved_figures(workdir: epath.PathLike, step: int) -> dict[str, float]:
    """Returns the figures that a checkpoint was saved with; none where it was saved without."""
    with ocp.training.Checkpointer(_directory(workdir)) as checkpointer:
        return next((dict(c.metrics or {}) for c in checkpointer.checkpoints if c.step == step), {})


def _named(tree: Any) -> Arrays:
    """Returns the leaves by name, such as `encoder.blocks.qkv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {name_of(path): leaf for path, leaf in leaves}


def _unnamed(tree: Any, arrays: Arrays) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in _named(tree)])


def _split(state: TrainState) -> tuple[Arrays, Arrays]:
    return _named(state.params), _named({"opt_state": state.opt_state, "step": state.step})


def _join(abstract: TrainState, parts: tuple[Arrays, Arrays]) -> TrainState:
    rest = _unnamed({"opt_state": abstract.opt_state, "step": abstract.step}, parts[1])
    return TrainState(rest["step"], _unnamed(abstract.params, parts[0]), rest["opt_state"])


def _load(
    path: epath.Path, abstract: tuple[Arrays, Arrays], mesh: jax.sharding.Mesh
) -> tuple[tuple[Arrays, Arrays], dict[str, Any]]:
    """Returns the arrays that `abstract` asks for, an empty part not at all, and the counters.

    Raises: Damaged, or UserError if the checkpoint is of another model.
    """
    wanted = {name: part for name, part in zip((PARAMS, REST), abstract, strict=True) if part}

    def read_metadata() -> dict[str, dict[str, Any]]:
        metadata = ocp.checkpointables_metadata(path).metadata
        unreadable = [name for name in wanted if metadata.get(name) is None]
        if unreadable:
            raise Damaged(f"the metadata of {unreadable} cannot be read")
        return {name: dict(metadata[name]) for name in wanted}

    stored = _read_by_all(read_metadata)
    for name, part in wanted.items():
        _compare(path, part, stored[name])
    targets = {name: {key: _target(x, mesh) for key, x in part.items()} for name, part in wanted.items()}
    loaded = _read_by_all(lambda: ocp.load_checkpointables(path, targets | {RECORD: None}))
    with _damage_told():
        sums, counters = loaded[RECORD]["checksums"], loaded[RECORD]["counters"]
        arrays = {key: x for name in wanted for key, x in loaded[name].items()}
        for key, value in jax.device_get(_checksums(arrays)).items():
            if int(value) != sums[key]:
                raise Damaged(f"the checksum of {key} is {int(value)}, written was {sums[key]}")
    return (loaded.get(PARAMS, {}), loaded.get(REST, {})), counters


def _read_by_all(read: Callable[[], T]) -> T:
    """Returns what `read` does. Raises: Damaged in all processes if it is in one, as they go on together."""
    damage = None
    try:
        with _damage_told():
            found = read()
    except Damaged as error:
        damage = error
    except TimeoutError as error:
        if jax.process_count() == 1:
            raise
        # Orbax has waited for a process that could not read its part.
        damage = Damaged(str(error).splitlines()[0])
    if hosts.anywhere(damage is not None):
        raise damage or Damaged("another process cannot read its part")
    return found


def _target(x: jax.Array, mesh: jax.sharding.Mesh) -> jax.ShapeDtypeStruct:
    # eval_shape's shardings are on the abstract mesh; Orbax wants concrete ones, else it trusts the file's.
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.NamedSharding(mesh, jax.typeof(x).sharding.spec))


def _compare(path: epath.Path, wanted: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    differences = [f"{name} is missing" for name in sorted(wanted.keys() - stored.keys())]
    differences += [f"{name} is not part of the model" for name in sorted(stored.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & stored.keys()):
        have, want = stored[name], wanted[name]
        if (tuple(have.shape), have.dtype) != (tuple(want.shape), want.dtype):
            differences.append(f"{name} is {have.dtype}{list(have.shape)}, expected {want.dtype}{list(want.shape)}")
    if differences:
        shown = "; ".join(differences[:5]) + (f"; and {len(differences) - 5} more" if len(differences) > 5 else "")
        raise UserError(f"{path} is a checkpoint of another model: {shown}. Use its own config, or a new workdir")


@contextlib.contextmanager
def _damage_told() -> Iterator[None]:
    """Turns what Orbax, TensorStore and json raise for unreadable files into `Damaged`.

    Files that may not be read, or not just now, are not damaged: that error stays what it is.
    """
    try:
        yield
    except (KeyError, ValueError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise
        if any(reason in str(error) for reason in UNREACHABLE):
            raise OSError(str(error)) from error
        lines = str(error).strip().splitlines() or [""]
        raise Damaged(f"{type(error).__name__}: {lines[0][:200]}") from error


@contextlib.contextmanager
def _explained(directory: epath.Path) -> Iterator[None]:
    """Turns a failure to write, which TensorStore raises as a ValueError, into a message with the remedy."""
    try:
        yield
    except ValueError as error:
        if "No space left" not in str(error) and "ENOSPC" not in str(error):
            raise
        raise UserError(
            f"the disk of {directory} is full: the checkpoint was not written, those before it are whole;"
            " free some space and run the same command again"
        ) from error


@jax.jit
def _checksums(arrays: Arrays) -> Arrays:
    """Returns a 32-bit checksum of each array's bits, the same on every mesh: integer sums have no order."""

    def checksum(x: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32 if x.dtype.itemsize == 4 else jnp.uint16).astype(jnp.uint32)
        place = jnp.zeros(x.shape, jnp.uint32, out_sharding=jax.typeof(x).sharding)
        for axis, size in enumerate(x.shape):
            iota = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis, out_sharding=jax.typeof(x).sharding)
            place = place * jnp.uint32(size) + iota
        return jnp.sum(bits * (place * jnp.uint32(2654435761) | 1), dtype=jnp.uint32)  # odd factors lose no bit

    return jax.tree.map(checksum, arrays)

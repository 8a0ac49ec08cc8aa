"""Where each tensor of another library goes among our parameters, and the strict way in and out, bit for bit.

Every tensor has one place and every place one tensor; what is left over on either side is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from bertjax.errors import UserError
from bertjax.model.params import Params, name_of

Tensors = Mapping[str, np.ndarray]


class Unread(Mapping[str, np.ndarray]):
    """Tensors by name, each read when it is asked for, and not kept."""

    def __init__(self, readers: Mapping[str, Callable[[], np.ndarray]]):
        self._readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor goes: all of one of our parameters, or the part of it at `index`."""

    name: str
    shape: tuple[int, ...]  # of the tensor
    index: tuple[int | slice, ...] = ()
    matrices: int = 1
    """Of how many, one below the other, a kernel's tensor consists."""

    def put(self, tensor: np.ndarray, param: np.ndarray) -> None:
        """Writes the tensor into our parameter. Kernels are transposed; the vocabulary's padding is left as it is."""
        part = param[self.index]
        if self.name.endswith("kernel"):
            part[...] = tensor.reshape(self.matrices, -1, self.shape[-1]).swapaxes(1, 2).reshape(part.shape)
        else:
            part.reshape(-1, *self.shape[1:])[: self.shape[0]] = tensor

    def take(self, param: np.ndarray) -> np.ndarray:
        """Returns the tensor that `put` would write."""
        part = param[self.index]
        if self.name.endswith("kernel"):
            kernels = part.reshape(self.matrices, self.shape[-1], -1)
            return np.ascontiguousarray(kernels.swapaxes(1, 2)).reshape(self.shape)
        return np.ascontiguousarray(part.reshape(-1, *self.shape[1:])[: self.shape[0]])


Places = dict[str, Place]
"""The place of each tensor, by the tensor's name."""


def params_from_tensors(
    tensors: Tensors, places: Places, abstract: Params, tied: Mapping[str, str] | None = None
) -> Params:
    """Returns the parameters that `abstract` describes, float32, on the mesh that is set.

    `tied` names tensors that may stand in the file again under a second name, {second: first}.

    Raises: UserError if a tensor is missing, left over, of another shape, not floating or not finite, or untied
        from its second name.
    """
    tied = tied or {}
    problems = [f"{name} is missing" for name in places if name not in tensors]
    problems += [f"{name} has no place in the model" for name in tensors if name not in places and name not in tied]
    params = {name_of(path): np.zeros(x.shape, np.float32) for path, x in jax.tree.leaves_with_path(abstract)}

    def put(name: str) -> str | None:
        place, tensor = places[name], tensors[name]
        if problem := _problem(name, tensor, place.shape):
            return problem
        place.put(np.asarray(tensor, np.float32), params[place.name])
        return None

    with ThreadPoolExecutor() as threads:  # NumPy copies without Python's lock
        problems += filter(None, threads.map(put, places.keys() & tensors.keys()))
    for second, first in tied.items():
        if {second, first} <= tensors.keys() and not np.array_equal(tensors[second], tensors[first]):
            problems.append(f"{second} is not {first}, to which it must be tied")
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"the tensors are not those that the config describes: {shown}")
    mesh = jax.sharding.get_mesh()
    return jax.tree.map_with_path(
        lambda path, x: jax.device_put(params[name_of(path)], jax.NamedSharding(mesh, x.sharding.spec)), abstract
    )


def tensors_from_params(params: Params, places: Places) -> dict[str, np.ndarray]:
    """Returns the tensors that `params_from_tensors` would make these parameters of, or their gradients."""
    arrays = {name_of(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}
    return {name: place.take(arrays[place.name]) for name, place in places.items()}


def dense(
    theirs: str, ours: str, outputs: int, inputs: int, index: tuple[int, ...] = ()
) -> Iterator[tuple[str, Place]]:
    """Returns the places of a dense layer's weight and bias."""
    yield theirs + ".weight", Place(ours + ".kernel", (outputs, inputs), index)
    yield theirs + ".bias", Place(ours + ".bias", (outputs,), index)


def norm(theirs: str, ours: str, width: int, index: tuple[int, ...] = ()) -> Iterator[tuple[str, Place]]:
    """Returns the places of a LayerNorm's weight and bias."""
    yield theirs + ".weight", Place(ours + ".scale", (width,), index)
    yield theirs + ".bias", Place(ours + ".bias", (width,), index)


def _problem(name: str, tensor: np.ndarray, shape: tuple[int, ...]) -> str | None:
    """Returns why a tensor cannot go to a place for one of this shape, if it cannot."""
    if tensor.shape != shape:
        return f"{name} is {list(tensor.shape)}, expected {list(shape)}"
    if tensor.dtype.name not in ("float32", "float16", "bfloat16"):
        return f"{name} is {tensor.dtype}, which float32 cannot hold"
    return None if np.isfinite(np.asarray(tensor, np.float32)).all() else f"{name} holds numbers that are not finite"

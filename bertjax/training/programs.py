"""Programs that a process compiles once, whichever of its runs need them: those of a sweep differ in little."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np

MOST_KEPT = 64
"""Programs; beyond, the one that was not asked for the longest is given up."""

_kept: OrderedDict[Hashable, jax.stages.Compiled] = OrderedDict()


def shared(function: Any, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    """Returns the jitted function, compiled only where this process has not compiled the same text for this mesh.

    Values that the function has not as arguments but from around it are constants of that text.
    """
    of_arguments: dict[Hashable, jax.stages.Compiled] = {}

    def call(*arguments: Any) -> Any:
        kinds = tuple(map(_kind, jax.tree.leaves(arguments)))
        if kinds not in of_arguments:
            of_arguments[kinds] = _compiled(function.lower(*arguments), kinds, mesh)
        return of_arguments[kinds](*arguments)

    return call


def _kind(x: jax.Array | np.generic) -> Hashable:
    return x.shape, x.dtype, getattr(x, "sharding", None)


def _compiled(lowered: jax.stages.Lowered, kinds: Hashable, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    text = hashlib.blake2b(lowered.as_text().encode()).digest()  # without the arguments that nothing depends on
    key = text, kinds, lowered.in_tree, lowered.out_tree, mesh
    if key not in _kept:
        _kept[key] = lowered.compile()
    _kept.move_to_end(key)
    if len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)
    return _kept[key]

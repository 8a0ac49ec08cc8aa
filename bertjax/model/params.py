"""A model's weights without the model: what is trained, saved, read and moved between formats."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]
"""Arrays by the names of the modules that they are in: {"encoder": {"blocks": {"qkv": {"kernel": ...}}}}.

A plain dictionary and not an nnx.State, which takes a step's caller more than twice as long to hand over.
"""


def params_of(model: nnx.Module) -> Params:
    """Returns a model's weights; `nnx.merge(graphdef, params)` is the model again."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def name_of(path: jax.tree_util.KeyPath) -> str:
    """Returns the name of one weight, such as `encoder.blocks.qkv.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")

"""Programs compiled ahead: one for each length, the same results, and nothing compiled twice."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.config import MeshConfig
from bertjax.training.ahead import Ahead


def batch(length: int) -> dict[str, jax.Array]:
    return {"ids": jnp.arange(2 * length, dtype=jnp.int32).reshape(2, length)}


def test_each_length_compiles_once_and_a_call_finds_its_program() -> None:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    traced: list[int] = []

    @jax.jit
    def scaled(tree: Any, batch: Any) -> jax.Array:
        traced.append(batch["ids"].shape[1])
        return tree["by"] * jnp.sum(batch["ids"])

    with jax.set_mesh(mesh):
        tree = {"by": jnp.float32(2)}
        ahead = Ahead(scaled, mesh)
        ahead.compile(jax.eval_shape(lambda: tree), [batch(4), batch(8)])
        found = {length: float(ahead(tree, batch(length))) for length in (4, 8, 8, 16, 16)}
    assert sorted(traced) == [4, 8, 16]
    assert found == {length: 2.0 * np.arange(2 * length).sum() for length in (4, 8, 16)}


def test_what_compiling_raises_the_call_raises() -> None:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])

    @jax.jit
    def wrong(tree: Any, batch: Any) -> jax.Array:
        raise ValueError(f"no such length: {batch['ids'].shape[1]}, {tree}")

    with jax.set_mesh(mesh):
        ahead = Ahead(wrong, mesh)
        ahead.compile({}, [batch(4)])
        with pytest.raises(ValueError, match="no such length: 4"):
            ahead({}, batch(4))

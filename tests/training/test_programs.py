from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import MeshConfig
from bertjax.sharding import make_mesh
from bertjax.training import programs


def scaled(factor: float, name: str = "x") -> Callable[[dict[str, jax.Array]], jax.Array]:
    """Returns another function at each call."""
    return jax.jit(lambda arrays: arrays[name] * factor)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[jax.stages.Lowered]:
    """What is compiled from now on; nothing was before."""
    seen: list[jax.stages.Lowered] = []
    compile_it = jax.stages.Lowered.compile

    def counted(self: jax.stages.Lowered) -> jax.stages.Compiled:
        seen.append(self)
        return compile_it(self)

    monkeypatch.setattr(programs, "_kept", type(programs._kept)())
    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    return seen


def test_what_reads_the_same_is_compiled_once(compiled: list[jax.stages.Lowered]) -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for _ in range(2):
        double = programs.shared(scaled(2.0), mesh)
        assert double({"x": jnp.ones(3)}).tolist() == [2, 2, 2]
        assert double({"x": np.array([4], np.float32)}).tolist() == [8]
    assert len(compiled) == 2


def test_what_differs_is_told_apart(compiled: list[jax.stages.Lowered]) -> None:
    """By a constant, a type, the names of what goes in, the devices."""
    one, two = (make_mesh(MeshConfig(), [device]) for device in jax.devices()[:2])
    x = jax.device_put(jnp.ones(3), one.devices.flat[0])
    assert programs.shared(scaled(2.0), one)({"x": x}).tolist() == [2, 2, 2]
    assert programs.shared(scaled(3.0), one)({"x": x}).tolist() == [3, 3, 3]
    assert programs.shared(scaled(2.0), one)({"x": x.astype(jnp.bfloat16)}).dtype == jnp.bfloat16
    assert programs.shared(scaled(2.0, "y"), one)({"y": x}).tolist() == [2, 2, 2]
    there = jax.device_put(x, two.devices.flat[0])
    assert programs.shared(scaled(2.0), two)({"x": there}).devices() == {two.devices.flat[0]}
    assert len(compiled) == 5


def test_unused_arguments_are_told_apart_too(compiled: list[jax.stages.Lowered]) -> None:
    """The text leaves them out, but a program takes only those it was compiled for: labels, in a forward pass."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for unused in (jnp.zeros(2, jnp.int32), jnp.zeros((2, 3))):
        assert programs.shared(scaled(2.0), mesh)({"x": jnp.ones(()), "labels": unused}) == 2
    assert len(compiled) == 2


@pytest.mark.usefixtures("compiled")
def test_large_constants_are_told_apart() -> None:
    """The text has all of their numbers."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for last in (1.0, 2.0):
        table = np.append(np.zeros(5000, np.float32), np.float32(last))
        added = programs.shared(jax.jit(functools.partial(jnp.add, table)), mesh)
        assert added(jnp.zeros(5001))[-1] == last


def test_the_oldest_is_given_up(compiled: list[jax.stages.Lowered], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_KEPT", 2)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for factor in (2.0, 3.0, 2.0, 4.0, 2.0, 3.0):
        assert programs.shared(scaled(factor), mesh)({"x": jnp.ones(())}) == factor
    assert len(compiled) == 4

"""A trace's operations, added up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import trace
from bertjax.errors import UserError


def event(name: str, start: float, seconds: float, **stats: Any) -> SimpleNamespace:
    return SimpleNamespace(name=name, start_ns=start, duration_ns=seconds, stats=stats.items())


def test_time_within_counts_once_and_time_side_by_side_is_busy_once() -> None:
    def of(step: int, op: str) -> dict[str, Any]:
        return {"hlo_op": op, "hlo_module": "step", "run_id": step}

    threads = [
        SimpleNamespace(
            name="thread",
            events=[
                event("while", 0, 100, **of(1, "while.3")),
                event("dot", 10, 30, **of(1, "dot.1")),
                event("dot", 50, 40, **of(1, "dot.2")),
                event("dot", 60, 10, **of(1, "fusion")),
                event("no operation", 0, 500),
                event("dot", 200, 10, **of(2, "dot.1.clone")),
            ],
        ),
        SimpleNamespace(name="other", events=[event("dot", 90, 30, **of(1, "dot.7"))]),
    ]
    planes = [SimpleNamespace(name="/device:1", lines=[]), SimpleNamespace(name="/host", lines=threads)]
    found = trace.operations(SimpleNamespace(planes=planes))
    assert [(trace.kind(one.name), one.alone) for one in found] == [
        *(("while", 30), ("dot", 30), ("dot", 30), ("fusion", 10), ("dot", 10)),
        ("dot", 30),
    ]
    assert trace.busy(found) == 130


def test_a_tpus_operations_are_told_by_their_line() -> None:
    line = SimpleNamespace(name="XLA Ops", events=[event("%fusion.12 = bf16[2]{0} fusion(...)", 5, 7)])
    found = trace.operations(SimpleNamespace(planes=[SimpleNamespace(name="/device:TPU:0", lines=[line])]))
    assert [(trace.kind(one.name), one.alone) for one in found] == [("fusion", 7)]


def test_a_gpus_kernels_begin_before_the_last_one_ends_and_have_names_in_command_buffers() -> None:
    events = [
        event("sum_2", 0, 700, hlo_op="sum.2", hlo_module="step"),
        event("long_1", 690, 5000, hlo_op="command_buffer_3", hlo_module="step"),
        event("sum_3", 5680, 20, hlo_op="sum.3", hlo_module="step"),
    ]
    line = SimpleNamespace(name="Stream #1", events=events)
    found = trace.operations(SimpleNamespace(planes=[SimpleNamespace(name="/device:GPU:0", lines=[line])]))
    assert [(trace.kind(one.name), one.alone) for one in found] == [("sum", 690), ("long", 4990), ("sum", 20)]
    assert trace.busy(found) == 5700


def test_the_account_of_a_real_trace(tmp_path: Path) -> None:
    @jax.jit
    def step(a: jax.Array) -> jax.Array:
        return jnp.tanh(a @ a).sum(0)

    @jax.jit
    def other(a: jax.Array) -> jax.Array:
        return a + 1

    a = jnp.ones((300, 300))
    jax.block_until_ready((step(a), other(a)))
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            jax.block_until_ready((step(a), other(a[:2, :2])))
    found = trace.account(tmp_path)
    assert (found["program"], found["runs"]) == ("jit_step", 3)
    assert 0 < sum(found["operations"].values()) <= 2 * found["seconds"]
    assert 0 < found["busy"] <= 1
    (newest,) = tmp_path.rglob("*.xplane.pb")
    (newest.parent.parent / "2020_01_01_00_00_00").mkdir()
    (newest.parent.parent / "2020_01_01_00_00_00" / "a.xplane.pb").write_bytes(b"")  # an older one
    (newest.parent / f"{newest.name}.xplane.pb").write_bytes(b"")  # another host's
    assert trace.account(tmp_path) == found
    with pytest.raises(UserError, match="has no trace"):
        trace.account(tmp_path / "elsewhere")

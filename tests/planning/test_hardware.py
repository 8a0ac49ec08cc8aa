from __future__ import annotations

import importlib.util

import jax
import pytest

from bertjax.errors import UserError
from bertjax.planning import hardware
from bertjax.sharding import slice_of


def test_a_pod_is_found_by_its_name() -> None:
    pod = hardware.find_topology("v5e:16x16")
    assert (pod.chips, pod.slices, pod.chip.peak) == (256, 1, 197e12)
    assert hardware.find_topology("v5p:8x8x16").chips == 1024
    assert hardware.find_topology("v5e:16x16", slices=4).chips == 1024


@pytest.mark.parametrize("name", ["v5e:3x5", "v5p:16x16", "v9:2x2", "v5e", "", "h100", "h100x0"])
def test_an_unknown_pod_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"^--topology={name} is unknown; use one of v5e:\{{1x1,.*v5p:.*v6e:.*h100"):
        hardware.find_topology(name)


def test_gpus_stand_in_nodes_of_eight() -> None:
    found = {name: hardware.find_topology(name) for name in ("h100x8", "h200x32", "a100x4")}
    assert [(one.chips, one.slices, one.compiled) for one in found.values()] == [
        (8, 1, False),
        (32, 4, False),
        (4, 1, False),
    ]
    assert hardware.devices(found["h100x8"]) == []
    with pytest.raises(UserError, match=r"--topology=h100x12: a node has 8 GPUs"):
        hardware.find_topology("h100x12")
    with pytest.raises(UserError, match=r"--slices=2 is of TPUs; .*--topology=h100x16"):
        hardware.find_topology("h100x8", slices=2)


def test_less_than_one_slice_is_refused() -> None:
    with pytest.raises(UserError, match=r"--slices=0 is not greater than 0"):
        hardware.find_topology("v5e:4x4", slices=0)


def test_without_libtpu_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'bertjax\[plan\]'"):
        hardware.devices(hardware.find_topology("v5e:4x4"))


@pytest.mark.parametrize(("name", "slices"), [("v5e:1x1", 1), ("v5e:2x4", 1), ("v5p:2x2x1", 1), ("v6e:4x4", 2)])
def test_devices_are_as_many_as_the_name_says(name: str, slices: int) -> None:
    pytest.importorskip("libtpu")
    topology = hardware.find_topology(name, slices)
    devices = hardware.devices(topology)
    assert len(devices) == topology.chips
    assert {slice_of(device) for device in devices} == set(range(slices))
    assert topology.chip.kind.startswith("TPU")
    assert isinstance(devices[0], jax.Device)

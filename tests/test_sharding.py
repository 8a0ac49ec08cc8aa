from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType

from bertjax.config import MeshConfig
from bertjax.errors import UserError
from bertjax.planning import hardware
from bertjax.sharding import ACT_B, batch_shards, check_batch, held_rows, make_mesh, slice_of, ways_between


@pytest.mark.parametrize(
    ("c", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=-1, model=2), (2, 2, 2)),
        (MeshConfig(data=1, fsdp=1, model=-1), (1, 1, 8)),
        (MeshConfig(data=4, fsdp=2, model=1), (4, 2, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(c: MeshConfig, shape: tuple[int, int, int]) -> None:
    mesh = make_mesh(c)
    assert tuple(mesh.shape.items()) == tuple(zip(("data", "fsdp", "model"), shape, strict=True))
    assert mesh.axis_types == (AxisType.Explicit,) * 3
    assert mesh.size == 8


def test_some_of_the_devices_are_enough() -> None:
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


@pytest.mark.parametrize("c", [MeshConfig(data=3), MeshConfig(data=-1, fsdp=3), MeshConfig(data=-1, fsdp=16)])
def test_sizes_that_do_not_multiply_out_are_refused(c: MeshConfig) -> None:
    with pytest.raises(UserError, match=rf"\({c.data}, {c.fsdp}, {c.model}\) does not multiply out to the 8 devices"):
        make_mesh(c)


@pytest.mark.parametrize(
    ("slices", "sizes", "between"),
    [(2, (8, 1, 1), (2, 1, 1)), (4, (4, 64, 4), (4, 1, 1)), (4, (2, 8, 1), (2, 2, 1)), (2, (1, 16, 1), (1, 2, 1))],
)
def test_data_is_cut_over_slices_first(slices: int, sizes: tuple[int, int, int], between: tuple[int, int, int]) -> None:
    assert ways_between(slices, sizes) == between


def test_a_mesh_that_does_not_divide_over_slices_is_refused() -> None:
    with pytest.raises(UserError, match=r"mesh\.data=1 does not divide over 2 slices; use a multiple of 2"):
        ways_between(2, (1, 1, 8))


def test_slices_that_are_not_there_are_refused() -> None:
    assert make_mesh(MeshConfig(slices=1)).size == 8
    with pytest.raises(UserError, match=r"mesh\.slices=2, but the devices are of 1"):
        make_mesh(MeshConfig(slices=2))


def test_only_data_goes_between_slices_of_tpus() -> None:
    pytest.importorskip("libtpu")
    mesh = make_mesh(MeshConfig(fsdp=4), hardware.devices(hardware.find_topology("v5e:2x4", slices=2)))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 4, "model": 1}
    assert [{slice_of(device) for device in row.flat} for row in mesh.devices] == [{0}, {0}, {1}, {1}]


def test_batch_is_cut_over_data_and_fsdp_but_not_model() -> None:
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, model=2))
    assert batch_shards(mesh) == 4
    x_BS = jax.device_put(jax.numpy.zeros((8, 3)), jax.NamedSharding(mesh, ACT_B))
    assert {shard.data.shape for shard in x_BS.addressable_shards} == {(2, 3)}


def test_batch_that_divides_is_accepted() -> None:
    check_batch(96, make_mesh(MeshConfig()))


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (100, r"train\.batch_size=100 does not divide over 8 data shards; use 96 or 104$"),
        (5, r"train\.batch_size=5 does not divide over 8 data shards; use 8$"),
    ],
)
def test_batch_that_does_not_divide_is_refused_with_the_nearest_sizes(batch_size: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_batch(batch_size, make_mesh(MeshConfig()))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 1, 8)])
def test_one_process_holds_every_row_once_on_any_mesh(sizes: tuple[int, int, int]) -> None:
    assert held_rows(16, make_mesh(MeshConfig(*sizes))) == (16, list(range(16)))

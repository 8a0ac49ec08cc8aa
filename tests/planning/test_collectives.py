from __future__ import annotations

import jax
import pytest

from bertjax import sharding
from bertjax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.planning.collectives import Collective, read_collectives
from bertjax.planning.compilation import compile_step
from bertjax.training import step
from bertjax.training.pretraining import make_pretraining

# As TPU compilers write it: a loop whose trips stand in its condition, a collective repeated in the computations that
# run while it is under way, and a reduce-scatter that is written as an all-reduce.
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (x: bf16[64,8]) -> bf16[16,8] {
  %x = bf16[64,8]{1,0} parameter(0)
  %r = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=7, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %part = bf16[16,8]{1,0} dynamic-slice(%r), dynamic_slice_sizes={16,8}
}

%begin (p: bf16[4,4]) -> bf16[16,4] {
  ROOT %g1 = bf16[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
}

%async_collective_fusion.1 (p: bf16[4,4]) -> bf16[16,4] {
  ROOT %g2 = bf16[16,4]{1,0} all-gather(%p), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
}

%body (s: (s32[], f32[10])) -> (s32[], f32[10]) {
  %s = (s32[], f32[10]{0}) parameter(0)
  %async-collective-start.2 = bf16[16,4]{1,0} fusion(%q), kind=kCustom, calls=%begin
  %fusion.1 = bf16[16,4]{1,0} fusion(%q), kind=kCustom, calls=%async_collective_fusion.1
  %async-collective-done.2 = bf16[16,4]{1,0} fusion(%q), kind=kCustom, calls=%begin
  %many = (f32[10]{0:T(128)S(1)}, f32[6]{0}) all-reduce(%u, %v), channel_id=4, replica_groups=GROUPS, to_apply=%add
  ROOT %t = (s32[], f32[10]{0}) tuple(%i, %h)
}

%condition (s: (s32[], f32[10])) -> pred[] {
  %n = s32[]{:T(128)} constant(24), metadata={op_name="lt"}
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %w = (s32[], f32[10]{0}) while(%start), condition=%condition, body=%body, metadata={op_name="while"}
  %scattered = bf16[16,8]{1,0} fusion(%big), kind=kCustom, calls=%all-reduce-scatter.1
  %moved = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%e), source_target_pairs={{0,1},{1,2}}
  %alone = f32[3]{0} all-reduce(%e), channel_id=9, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  ROOT %out = f32[10]{0} get-tuple-element(%w), index=1
}
"""
SHAPE = {"data": 2, "fsdp": 4, "model": 1}


def read(groups: str = "{{0,4},{1,5},{2,6},{3,7}}", slices: list[int] | None = None) -> list[Collective]:
    return read_collectives(PROGRAM.replace("GROUPS", groups), SHAPE, slices)


def test_each_is_counted_as_often_as_it_is_sent_and_no_more() -> None:
    assert read() == [
        Collective("all-gather", ("fsdp",), group=4, slices=1, count=24, size=24 * 16 * 4 * 2),
        Collective("all-reduce", ("data",), group=2, slices=1, count=24, size=24 * (10 + 6) * 4),
        Collective("collective-permute", ("fsdp",), group=2, slices=1, count=1, size=5 * 4),
        Collective("reduce-scatter", ("fsdp",), group=4, slices=1, count=1, size=64 * 8 * 2),
    ]


@pytest.mark.parametrize(
    ("groups", "axes", "members"),
    [
        ("{}", ("data", "fsdp"), 8),
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4),
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("mesh['a'=2,'b'=4] {'a'}", ("data",), 2),
        ("mesh['a'=2,'b'=4] {'a','b'}", ("data", "fsdp"), 8),
        ("mesh['a'=8] {'a':(1)2}", ("data",), 2),
        ("mesh['a'=8] {'a':(2)4}", ("fsdp",), 4),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",), 2),
    ],
)
def test_groups_lie_along_axes_however_they_are_written(groups: str, axes: tuple[str, ...], members: int) -> None:
    found = [one for one in read(groups) if one.count == 24 and one.kind == "all-reduce"]
    assert [(one.axes, one.group) for one in found] == [(axes, members)]


@pytest.mark.parametrize(
    ("kind", "within"), [("all-reduce", 150.0), ("all-gather", 75.0), ("reduce-scatter", 75.0), ("all-to-all", 75.0)]
)
def test_bytes_that_leave_a_device_are_those_of_a_ring(kind: str, within: float) -> None:
    one = Collective(kind, ("data",), group=4, slices=1, count=1, size=100)
    assert (one.within, one.between) == (within, 0)


def test_only_what_a_slice_has_added_up_goes_to_other_slices() -> None:
    one = Collective("all-reduce", ("data",), group=8, slices=2, count=1, size=80)
    assert (one.within, one.between) == (120, 20)  # 2 x 80 x 3/4; each of 4 devices 2 x 20 x 1/2


def test_groups_over_slices_are_told_from_those_within() -> None:
    found = {one.kind: one.slices for one in read(slices=[0] * 4 + [1] * 4)}
    assert found == {"all-gather": 1, "all-reduce": 2, "collective-permute": 1, "reduce-scatter": 1}


def test_what_is_not_understood_is_no_guess() -> None:
    with pytest.raises(ValueError, match=r"groups are not understood: .*groups=new"):
        read("new")
    with pytest.raises(ValueError, match="number of trips is not told"):
        read_collectives(PROGRAM.replace("constant(24)", "parameter(0)").replace("GROUPS", "{}"), SHAPE)


def config(rows: int, mesh: MeshConfig) -> Config:
    return Config(
        model=ModelConfig(
            vocab_size=100, width=32, layers=2, heads=4, mlp_width=64, max_positions=16, dropout=0, attention_dropout=0
        ),
        data=DataConfig(seq_len=16),
        optimizer=OptimizerConfig(warmup_steps=None),
        train=TrainConfig(steps=10, batch_size=rows),
        mesh=mesh,
    )


def compiled(rows: int, mesh: MeshConfig) -> tuple[Collective, ...]:
    c = config(rows, mesh)
    return compile_step(c, sharding.make_mesh(c.mesh)).collectives


def test_data_parallelism_sends_gradients_and_no_activations() -> None:
    sent = compiled(8, MeshConfig())
    assert {one.kind for one in sent} == {"all-reduce"}
    assert sent == compiled(24, MeshConfig())  # an activation would be three times as large
    with jax.set_mesh(sharding.make_mesh(MeshConfig())):
        run = make_pretraining(config(8, MeshConfig()), next_sentence=True)
        params = step.abstract_state(run.make_model, run.optimizer).params
    gradients = 4 * sum(x.size for x in jax.tree.leaves(params))
    tokens = 4 * 128 * 32  # on CPUs their gradient is sent twice, as that of the embedding and as the head's
    assert gradients <= sum(one.size for one in sent) <= gradients + tokens + 100  # and a few figures


def test_weights_that_are_cut_are_gathered_and_their_gradients_scattered_whatever_the_batch() -> None:
    few, many = (compiled(rows, MeshConfig(data=2, fsdp=4)) for rows in (8, 24))
    assert few == many
    assert {"all-gather"} < {one.kind for one in few}


def test_tensor_parallelism_sends_activations() -> None:
    few, many = (
        sum(one.size for one in compiled(rows, MeshConfig(data=1, fsdp=2, model=4)) if "model" in one.axes)
        for rows in (8, 24)
    )
    assert many > 2 * few


@pytest.mark.parametrize(
    ("target", "kind", "size", "axes"),
    [
        ('"{1,2}x{0:3}"', "ALL_REDUCE", 4 * 8 * 4, ("data",)),
        ("{{100000,200000},{100001,200001}}", "ALL_GATHER", 2 * 4 * 8 * 4, ("data",)),
        ("{{100000,200000},{100001,200001}}", "REDUCE_SCATTER", 4 * 8 * 4, ("data",)),
    ],
)
def test_what_a_chip_hands_to_its_host_is_sent_to_other_slices(
    target: str, kind: str, size: int, axes: tuple[str, ...]
) -> None:
    how = f'frontend_attributes={{_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}'
    host = f"  %s.1 = (f32[4,8]{{1,0}}, u32[], token[]) send(%x, %after), channel_id=2, is_host_transfer=true, {how}\n"
    program = f"ENTRY %main (x: f32[10]) -> f32[10] {{\n{host}}}\n"
    found = read_collectives(program, SHAPE, [0] * 4 + [1] * 4)
    assert found == [Collective(kind.lower().replace("_", "-"), axes, group=2, slices=2, count=1, size=size)]
    assert found[0].within == 0
    assert found[0].between == (size if kind == "ALL_REDUCE" else size / 2)

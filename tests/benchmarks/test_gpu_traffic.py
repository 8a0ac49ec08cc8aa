from __future__ import annotations

import dataclasses
from typing import Any

import jax
import pytest
from jax.experimental import topologies

from benchmarks import gpu_traffic
from bertjax.config import Config, MeshConfig, ModelConfig, TrainConfig
from bertjax.errors import UserError
from bertjax.planning.hlo import read_program
from bertjax.sharding import make_mesh

HLO = """HloModule jit_step, is_scheduled=true

%sliced (param_0: f32[12,100], param_1: f32[100]) -> f32[100] {
  %param_0 = f32[12,100]{1,0} parameter(0)
  %slice.1 = f32[1,100]{1,0} slice(%param_0), slice={[3:4], [0:100]}
  %bitcast.1 = f32[100]{0} bitcast(%slice.1)
  %param_1 = f32[100]{0} parameter(1)
  ROOT %add.1 = f32[100]{0} add(%bitcast.1, %param_1)
}

%product (param_0.1: bf16[64,32], param_1.1: bf16[32,16]) -> bf16[64,16] {
  %param_0.1 = bf16[64,32]{1,0} parameter(0)
  %param_1.1 = bf16[32,16]{1,0} parameter(1)
  ROOT %dot.1 = bf16[64,16]{1,0} dot(%param_0.1, %param_1.1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%updated (param_0.2: f32[12,100], param_1.2: f32[1,100], param_2.2: s32[]) -> f32[12,100] {
  %param_0.2 = f32[12,100]{1,0} parameter(0)
  %param_1.2 = f32[1,100]{1,0} parameter(1)
  %param_2.2 = s32[] parameter(2)
  ROOT %update = f32[12,100]{1,0} dynamic-update-slice(%param_0.2, %param_1.2, %param_2.2, %param_2.2)
}

%body (state: (s32[], f32[100])) -> (s32[], f32[100]) {
  %state = (s32[], f32[100]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[100]{0} get-tuple-element(%state), index=1
  %negate.1 = f32[100]{0} negate(%x)
  ROOT %tuple.1 = (s32[], f32[100]{0}) tuple(%i, %negate.1)
}

%both (param_0.3: f32[100], param_1.3: f32[12,100]) -> (f32[100], pred[100]) {
  %param_0.3 = f32[100]{0} parameter(0)
  %param_1.3 = f32[12,100]{1,0} parameter(1)
  %bitcast.3 = f32[1200]{0} bitcast(%param_1.3)
  %slice.3 = f32[100]{0} slice(%bitcast.3), slice={[300:400]}
  %add.3 = f32[100]{0} add(%param_0.3, %slice.3)
  %compare.3 = pred[100]{0} compare(%param_0.3, %slice.3), direction=GT
  ROOT %tuple.3 = (f32[100]{0}, pred[100]{0}) tuple(%add.3, %compare.3)
}

%called (param_0.4: f32[100]) -> f32[100] {
  %param_0.4 = f32[100]{0} parameter(0)
  ROOT %abs.4 = f32[100]{0} abs(%param_0.4)
}

ENTRY %main (a: f32[12,100], b: f32[100], c: bf16[64,32], d: bf16[32,16]) -> f32[12,100] {
  %a = f32[12,100]{1,0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %c = bf16[64,32]{1,0} parameter(2)
  %d = bf16[32,16]{1,0} parameter(3)
  %zero = s32[] constant(0)
  %loop_slice_fusion = f32[100]{0} fusion(%a, %b), kind=kLoop, calls=%sliced
  %gemm = ((bf16[64,32]{1,0}, bf16[32,16]{1,0}), bf16[64,16]{1,0}) fusion-start(%c, %d), kind=kCustom, calls=%product
  %begin = (s32[], f32[100]{0}) tuple(%zero, %loop_slice_fusion)
  %loop = (s32[], f32[100]{0}) while(%begin), condition=%no, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %gemm.done = bf16[64,16]{1,0} fusion-done(%gemm)
  %y = f32[100]{0} get-tuple-element(%loop), index=1
  %row = f32[1,100]{1,0} bitcast(%y)
  %pair = (f32[100]{0}, pred[100]{0}) fusion(%b, %a), kind=kLoop, calls=%both
  %inside = f32[100]{0} call(%b), to_apply=%called
  %triton = (bf16[8]{0}, pred[8]{0}) custom-call(%d), custom_call_target="triton_kernel_call_ffi"
  ROOT %update_fusion = f32[12,100]{1,0} fusion(%a, %row, %zero), kind=kLoop, calls=%updated
}
"""


def test_kernels_move_what_they_read_of_their_operands_and_write_of_their_results() -> None:
    found = {kernel.name: kernel for kernel in gpu_traffic.kernels(*read_program(HLO))}
    moved = {name: (kernel.times, kernel.read, kernel.written, kernel.flop) for name, kernel in found.items()}
    assert moved == {
        "loop_slice_fusion": (1, 400 + 400, 400, 0),  # a row of twelve
        "gemm": (1, 64 * 32 * 2 + 32 * 16 * 2, 64 * 16 * 2, 2 * 64 * 16 * 32),
        "negate.1": (3, 400, 400, 0),
        "pair": (1, 400 + 400, 400 + 100, 0),
        "abs.4": (1, 400, 400, 0),
        "triton": (1, 32 * 16 * 2, 8 * 2 + 8, 0),
        "update_fusion": (1, 400 + 4, 400, 0),  # in place
    }


def test_a_kernel_lasts_as_long_as_its_memory_or_its_products() -> None:
    moves = gpu_traffic.Kernel("a", "", times=2, read=3_000_000, written=1_000_000, flop=0)
    assert moves.seconds == pytest.approx(2 * (1e-6 + 2e-6))
    multiplies = moves._replace(flop=13_000_000_000)
    assert multiplies.seconds == pytest.approx(2 * (20e-6 + 2e-6))
    sums = gpu_traffic.figures([multiplies, moves])
    assert sums["kernels"] == 4
    assert sums["other_gigabytes"] == pytest.approx(0.008)
    assert sums["product_teraflop"] == pytest.approx(0.026)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": TrainConfig(batch_size=8, microbatches=3)}, "does not divide over 1 data shards x 3 microbatches"),
        ({"mesh": MeshConfig(model=2)}, "does not multiply out to the 1 devices"),
        ({"model": ModelConfig(attention="splash")}, "drops no weights, but model.attention_dropout=0.1"),
    ],
)
def test_what_train_py_would_refuse_is_an_error(fields: dict[str, Any], message: str) -> None:
    c = dataclasses.replace(Config(train=TrainConfig(batch_size=8)), **fields)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(UserError, match=message):
        gpu_traffic.checked(gpu_traffic.Arguments(config=c), mesh)
    with pytest.raises(ValueError, match="pairs_per_row=0 is less than 1"):
        gpu_traffic.Arguments(config=c, pairs_per_row=0)


def test_without_a_compiler_for_gpus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: Any) -> None:
        raise RuntimeError("no plugin")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"no plugin; pip install 'jax\[cuda13\]>=0.11'"):
        gpu_traffic.h200()

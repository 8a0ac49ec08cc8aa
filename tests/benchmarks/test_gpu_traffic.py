from __future__ import annotations

import pytest

from benchmarks import gpu_traffic
from bertjax.planning.hlo import read_program

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

ENTRY %main (a: f32[12,100], b: f32[100], c: bf16[64,32], d: bf16[32,16]) -> f32[12,100] {
  %a = f32[12,100]{1,0} parameter(0)
  %b = f32[100]{0} parameter(1)
  %c = bf16[64,32]{1,0} parameter(2)
  %d = bf16[32,16]{1,0} parameter(3)
  %zero = s32[] constant(0)
  %loop_slice_fusion = f32[100]{0} fusion(%a, %b), kind=kLoop, calls=%sliced
  %gemm_fusion_dot = bf16[64,16]{1,0} fusion(%c, %d), kind=kCustom, calls=%product
  %begin = (s32[], f32[100]{0}) tuple(%zero, %loop_slice_fusion)
  %loop = (s32[], f32[100]{0}) while(%begin), condition=%no, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %y = f32[100]{0} get-tuple-element(%loop), index=1
  %row = f32[1,100]{1,0} bitcast(%y)
  %call = (bf16[8]{0}, pred[8]{0}) custom-call(%d), custom_call_target="triton_kernel_call_ffi"
  ROOT %update_fusion = f32[12,100]{1,0} fusion(%a, %row, %zero), kind=kLoop, calls=%updated
}
"""


def test_kernels_move_what_they_read_of_their_operands_and_write_of_their_results() -> None:
    found = {kernel.name: kernel for kernel in gpu_traffic.kernels(*read_program(HLO))}
    moved = {name: (kernel.times, kernel.read, kernel.written, kernel.flop) for name, kernel in found.items()}
    assert moved == {
        "loop_slice_fusion": (1, 400 + 400, 400, 0),  # a row of twelve
        "gemm_fusion_dot": (1, 64 * 32 * 2 + 32 * 16 * 2, 64 * 16 * 2, 2 * 64 * 16 * 32),
        "negate.1": (3, 400, 400, 0),
        "call": (1, 32 * 16 * 2, 8 * 2 + 8, 0),
        "update_fusion": (1, 400 + 4, 400, 0),  # in place
    }


def test_a_kernel_lasts_as_long_as_its_memory_or_its_products() -> None:
    moves = gpu_traffic.Kernel("a", "", times=2, read=3_000_000, written=1_000_000, flop=0)
    assert moves.seconds == pytest.approx(2 * (1e-6 + 2e-6))
    multiplies = moves._replace(flop=13_000_000_000)
    assert multiplies.seconds == pytest.approx(2 * (20e-6 + 2e-6))
    sums = gpu_traffic.figures([moves, multiplies])
    assert sums["kernels"] == 4
    assert sums["gigabytes_between_products"] == pytest.approx(0.008)
    assert sums["product_teraflop"] == pytest.approx(0.026)

from __future__ import annotations

import pytest

from bertjax.planning import hlo

HLO = """
%condition (state: (s32[], f32[4])) -> pred[] {
  %state.1 = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %last = s32[] constant(24)
  ROOT %less = pred[] compare(%i, %last), direction=LT
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %told = (s32[], f32[4]{0}) while(%begin), condition=%other, body=%b, backend_config={"known_trip_count":{"n":"12"}}
  %counted = (s32[], f32[4]{0}) while(%begin), condition=%condition, body=%b
  %untold = (s32[], f32[4]{0}) while(%begin), body=%b
  ROOT %x = f32[4]{0} fusion(%a, %counted), kind=kLoop, calls=%c
}
"""


def test_a_program_is_its_computations_and_their_operations() -> None:
    entry, computations = hlo.read_program(HLO)
    assert (entry, list(computations)) == ("main", ["condition", "main"])
    last = computations["main"][-1]
    assert (last.result, last.type, last.name, last.operands) == ("x", "f32[4]{0}", "fusion", ["a", "counted"])
    assert [operation.result for operation in computations["condition"] if operation.root] == ["less"]


def test_a_loop_runs_as_often_as_it_says_or_counts() -> None:
    _, computations = hlo.read_program(HLO)
    told, counted, untold = computations["main"][1:4]
    assert (hlo.trips(told, computations), hlo.trips(counted, computations)) == (12, 24)
    with pytest.raises(ValueError, match="number of trips is not told"):
        hlo.trips(untold, computations)


def test_arrays_have_shapes_and_bytes() -> None:
    type_ = "(bf16[2,3]{1,0:T(8,128)(2,1)}, pred[5]{0}, f32[], u8[7], f8e4m3fn[2])"
    assert hlo.shapes(type_) == [(2, 3), (5,), (), (7,), (2,)]
    assert hlo.array_bytes(type_) == [12, 5, 4, 7, 2]

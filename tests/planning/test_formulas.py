from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from bertjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.planning.compilation import Step
from bertjax.planning.formulas import estimate_step
from bertjax.sharding import AXES

CONFIG = Config(
    model=ModelConfig(vocab_size=100, width=32, layers=4, heads=4, mlp_width=64, max_positions=16),
    data=DataConfig(seq_len=16),
    optimizer=OptimizerConfig(warmup_steps=None),
    train=TrainConfig(steps=10, batch_size=64),
)


def step(c: Config = CONFIG, sizes: tuple[int, int, int] = (8, 1, 1), per_slice: int = 8) -> Step:
    mesh = AbstractMesh(sizes, AXES, axis_types=(AxisType.Explicit,) * 3)
    return estimate_step(c, mesh, per_slice=per_slice, pairs_per_row=1, next_sentence=True)


def changed(**fields: Any) -> Config:
    model = {name: value for name, value in fields.items() if hasattr(CONFIG.model, name)}
    train = {name: value for name, value in fields.items() if name not in model}
    return dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, **model), train=dataclasses.replace(CONFIG.train, **train)
    )


def temporaries(c: Config, **how: Any) -> int:
    found = step(c, **how)
    assert found.memory is not None
    assert found.compile_seconds is None
    return found.memory.temporaries


def test_activations_grow_with_the_rows_of_a_chip_and_shrink_with_what_saves_them() -> None:
    whole = temporaries(CONFIG)
    gradients = whole - (temporaries(changed(batch_size=128)) - whole)
    assert 0 < gradients < whole / 3
    assert temporaries(changed(batch_size=128, microbatches=2)) == pytest.approx(whole, rel=0.01)
    assert temporaries(CONFIG, sizes=(16, 1, 1)) == pytest.approx((whole + gradients) / 2, rel=0.01)
    by_remat = [temporaries(changed(remat=remat)) for remat in ("none", "products", "block")]
    assert by_remat == sorted(by_remat, reverse=True)
    assert by_remat[2] < 0.6 * by_remat[0]


def test_weights_that_are_cut_take_their_part_of_the_memory() -> None:
    whole, cut = step().memory, step(sizes=(1, 8, 1)).memory
    assert whole is not None
    assert cut is not None
    assert cut.arguments < whole.arguments / 4
    assert whole.outputs == whole.aliased


def test_nothing_is_sent_where_there_is_one() -> None:
    assert step(sizes=(1, 1, 1), per_slice=1).collectives == ()


def test_gradients_go_over_nodes_only_along_axes_that_reach_beyond_one() -> None:
    (reduce,) = step(sizes=(16, 1, 1)).collectives
    assert (reduce.kind, reduce.group, reduce.slices) == ("all-reduce", 16, 2)
    found = {one.kind: one for one in step(sizes=(2, 8, 1)).collectives}
    assert {kind: one.slices for kind, one in found.items()} == {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}
    assert found["all-gather"].size == 2 * found["reduce-scatter"].size == 16 * found["all-reduce"].size


def test_weights_and_gradients_are_sent_for_each_microbatch() -> None:
    once, often = (step(changed(microbatches=n), sizes=(1, 8, 1)).collectives for n in (1, 4))
    assert [one.kind for one in often] == ["all-gather", "reduce-scatter"]
    assert [(b.count, b.size) for b in often] == [(4 * a.count, 4 * a.size) for a in once]


def test_half_the_precision_is_half_the_bytes() -> None:
    (full,), (half,) = step().collectives, step(changed(precision="bfloat16")).collectives
    assert full.size == 2 * half.size


def test_tensor_parallelism_sends_activations_four_times_a_layer() -> None:
    (reduce,) = (one for one in step(sizes=(2, 1, 4)).collectives if one.axes == ("model",))
    assert reduce.count == 4 * 4
    assert reduce.size == 16 * math.prod((32, 16, 32)) * 4  # rows, positions, width, float32


def test_nothing_is_computed() -> None:
    before = len(jax.live_arrays())
    step(changed(batch_size=2**20))
    assert len(jax.live_arrays()) <= before + 5

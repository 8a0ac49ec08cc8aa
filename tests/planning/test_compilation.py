from __future__ import annotations

import jax
import numpy as np
import pytest

from bertjax import sharding
from bertjax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.planning.compilation import Memory, abstract_batch, compile_step, held_by, memory_asked
from bertjax.training import step
from bertjax.training.pretraining import make_pretraining

CONFIG = Config(
    model=ModelConfig(vocab_size=100, width=32, layers=2, heads=4, mlp_width=64, max_positions=16, dropout=0),
    data=DataConfig(seq_len=16),
    optimizer=OptimizerConfig(warmup_steps=None),
    train=TrainConfig(steps=10, batch_size=16),
    mesh=MeshConfig(data=2, fsdp=4),
)


def test_arguments_are_the_state_and_the_batch_cut_over_the_mesh() -> None:
    mesh = sharding.make_mesh(CONFIG.mesh)
    with jax.set_mesh(mesh):
        run = make_pretraining(CONFIG, next_sentence=True)
        state = step.abstract_state(run.make_model, run.optimizer)
    kept = jax.tree.leaves(state)
    shapes = [jax.NamedSharding(mesh, x.sharding.spec if x.sharding else jax.P()).shard_shape(x.shape) for x in kept]
    held = sum(int(np.prod(shape)) * x.dtype.itemsize for shape, x in zip(shapes, kept, strict=True))
    held += held_by(abstract_batch(CONFIG, mesh, 1))
    found = compile_step(CONFIG, mesh)
    assert found.memory is not None
    assert found.memory.arguments == held
    assert found.needed == found.memory.needed
    assert found.compile_seconds is not None
    assert found.compile_seconds > 0


def test_what_takes_the_place_of_an_argument_needs_none_of_its_own() -> None:
    assert Memory(arguments=10, temporaries=7, outputs=9, aliased=8).needed == 18


@pytest.mark.parametrize(
    ("message", "asked"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.00M of 1.00M hbm.", 2**29),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (2.00G)"
            " exceeds available HBM (15.75G).",
            7 + 2 * 2**30,
        ),
        ("INTERNAL: something else ran out", None),
    ],
)
def test_how_much_was_asked_for_is_read_from_the_compilers_error(message: str, asked: float | None) -> None:
    assert memory_asked(message, 7) == asked

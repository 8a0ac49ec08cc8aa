from __future__ import annotations

from typing import Any

import jax
import pytest
from flax import nnx

from bertjax import sharding
from bertjax.config import Config, MeshConfig, ModelConfig
from bertjax.sharding import make_mesh
from bertjax.training.pretraining import make_pretraining


@pytest.mark.parametrize(
    ("asked", "platform", "unrolled"),
    [("auto", "cpu", True), ("auto", "gpu", True), ("auto", "tpu", False), (False, "cpu", False), (True, "tpu", True)],
)
def test_blocks_are_unrolled_but_on_tpus(
    monkeypatch: pytest.MonkeyPatch, asked: Any, platform: str, unrolled: bool
) -> None:
    monkeypatch.setattr(sharding, "device_of", lambda _: ("some kind", platform))
    c = Config(model=ModelConfig(layers=2, width=32, heads=2, mlp_width=64, vocab_size=60, unroll_layers=asked))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        model: Any = nnx.eval_shape(lambda: make_pretraining(c, next_sentence=True).make_model(nnx.Rngs(0)))
    assert model.encoder.c.unroll_layers is unrolled

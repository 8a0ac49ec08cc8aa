"""Each variant of the step differs from the default in what it names, and computes the same where it should."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import ablation
from benchmarks.rows import made_up_batch, with_every_position
from bertjax import sharding
from bertjax.config import Config, DataConfig, MeshConfig, ModelConfig, TrainConfig
from bertjax.errors import UserError
from bertjax.model import encoder, layers
from bertjax.training import step
from bertjax.training.pretraining import make_pretraining

SMALL = Config(
    model=ModelConfig(vocab_size=60, width=16, layers=2, heads=2, mlp_width=32, max_positions=32, dropout=0),
    data=DataConfig(seq_len=32, max_predictions=5),
    train=TrainConfig(batch_size=4),
)


def figures_of(c: Config, batch: dict[str, np.ndarray]) -> dict[str, float]:
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        run = make_pretraining(c, next_sentence=True)
        state = step.first_state(step.fresh_params(run.make_model, 0), run.optimizer)
        return {name: float(x) for name, x in run.train_step(state, step.to_mesh(batch, mesh))[1].items()}


def test_one_product_and_a_head_at_every_position_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = dataclasses.replace(SMALL.model, attention_dropout=0)
    c = dataclasses.replace(SMALL, model=model)
    batch = made_up_batch(c.data, 4, vocab_size=60, lengths=(9, 20))
    wanted = figures_of(c, batch)
    assert figures_of(c, with_every_position(batch)) == pytest.approx(wanted, rel=1e-5)
    monkeypatch.setattr(layers, "in_three_products", layers.in_three_products)  # to be put back
    before = layers.in_three_products
    ablation.one_product()
    assert layers.in_three_products is not before
    assert figures_of(c, batch) == pytest.approx(wanted, rel=1e-5)


def test_a_vocabulary_without_padding_another_gelu_and_dropout_by_whole_words_compute_the_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = made_up_batch(SMALL.data, 4, vocab_size=60, lengths=(9, 20))
    wanted = figures_of(SMALL, batch)
    monkeypatch.setattr(encoder, "VOCAB_MULTIPLE", encoder.VOCAB_MULTIPLE)  # to be put back
    ablation.exact_vocabulary()
    assert encoder.padded_vocab_size(SMALL.model) == 60
    assert figures_of(SMALL, batch)["mlm_loss"] == pytest.approx(wanted["mlm_loss"], rel=1e-5)
    monkeypatch.setattr(layers, "gelu", layers.gelu)
    ablation.gelu_by_erfc()
    assert figures_of(SMALL, batch)["mlm_loss"] == pytest.approx(wanted["mlm_loss"], rel=1e-5)
    monkeypatch.setattr(layers, "draw_kept", layers.draw_kept)
    before = layers.draw_kept
    ablation.whole_words()
    assert layers.draw_kept is not before
    x = jnp.ones((200, 100))
    dropped = layers.dropout(x, 0.25, jax.random.key(0))
    assert float((dropped == 0).mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.max()) == pytest.approx(4 / 3)
    assert layers.dropout(x, 0.25, None) is x


def test_variants_are_those_of_the_config_and_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ablation.variants(SMALL)
    assert {"gather", "three_products", "donation", "layers", "remat_block", "prng_rbg", "onednn"} <= names.keys()
    assert not {"remat_none", "prng_threefry2x32"} & names.keys()
    modern = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, family="modernbert", remat="block"))
    assert "remat_none" in ablation.variants(modern)
    assert "norm" not in names
    monkeypatch.setattr(ablation.backend, "has_tpus", lambda: True)
    assert "three_products" not in ablation.variants(SMALL)
    monkeypatch.setattr(ablation.backend, "only_cpus", lambda: False)
    monkeypatch.setattr(ablation.backend, "has_cuda", lambda: True)
    assert {"kernel", "norm", "cublas", "cublaslt"} <= ablation.variants(SMALL).keys()
    assert "onednn" not in ablation.variants(SMALL)
    assert ablation.variants(modern)["precision_bfloat16"].fields == {"train": {"precision": "bfloat16"}}


def test_a_variant_is_timed_beside_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256")
    assert ablation.flags("--xla_b") == "--xla_cpu_prefer_vector_width=256 --xla_b"
    a = ablation.Arguments(SMALL, rounds=1, turn_seconds=0.01, only=("gather", "kept_memory"))
    found = list(ablation.measure(a))
    assert [row["without"] for row in found] == ["gather", "kept_memory"]
    for row in found:
        assert row["gain"] == pytest.approx(row["of_default"] / row["tokens_per_second"])
    with pytest.raises(UserError, match="only='speed' is no variant of this config; use of gather, three_products"):
        next(ablation.measure(dataclasses.replace(a, only=("speed",))))

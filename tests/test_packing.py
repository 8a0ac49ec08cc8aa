"""From texts to gradients: packed rows train as their pairs do alone."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax.config import DataConfig, ModelConfig
from bertjax.data import batches
from bertjax.data.mixture import open_mixture
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.model.pretraining import BertForPretraining
from bertjax.training.losses import objective, pretraining_loss
from tests.model import tiny

C = DataConfig(seq_len=64)
WORDS = ["the", "river", "carries", "a", "small", "boat", "past", "our", "mill", "and", "under", "the", "old", "bridge"]


@pytest.fixture(scope="module")
def whole_epochs(tmp_path_factory: pytest.TempPathFactory) -> tuple[batches.Batch, batches.Batch]:
    """An epoch of the same text as one batch: a pair a row, and up to four."""
    directory = tmp_path_factory.mktemp("packing")
    rng = random.Random(0)
    documents = [
        "\n".join(" ".join(rng.choices(WORDS, k=6)).capitalize() + "." for _ in range(rng.randint(2, 8)))
        for _ in range(16)
    ]
    (directory / "stories.txt").write_text("\n\n".join(documents))
    return tuple(whole_epoch(directory, pairs_per_row) for pairs_per_row in (1, 4))  # type: ignore[return-value]


def whole_epoch(directory: Path, pairs_per_row: int) -> batches.Batch:
    output = directory / str(pairs_per_row)
    settings = PrepareConfig(
        str(output), vocab_size=100, seq_len=64, pairs_per_row=pairs_per_row, validation_share=0.1, short_share=0.5
    )
    prepare(settings, [directory / "stories.txt"])
    corpus = open_mixture(dataclasses.replace(C, path=str(output)))
    size = corpus.rows("train")
    return batches.training_batches(corpus, C, rows=range(size), batch_size=size, seed=0)(0)


@pytest.fixture(autouse=True)
def mesh() -> Iterator[None]:
    with jax.set_mesh(tiny.one_device()):
        yield


MODEL = ModelConfig(width=16, layers=2, heads=2, mlp_width=32, max_positions=64, vocab_size=100, init_std=0.2)
"""Its weights are large, so that tokens matter to each other."""


def new_model() -> BertForPretraining:
    return BertForPretraining(MODEL, rngs=nnx.Rngs(0))


@functools.cache
def params() -> nnx.State:
    return jax.jit(lambda: nnx.state(new_model(), nnx.Param))()


def model() -> BertForPretraining:
    return nnx.merge(nnx.split(nnx.eval_shape(new_model))[0], params())


def test_rows_are_fewer_and_hold_the_same(whole_epochs: tuple[batches.Batch, batches.Batch]) -> None:
    alone, packed = whole_epochs
    assert packed["spans"].max() > 2
    assert len(packed["ids"]) < 0.8 * len(alone["ids"])
    for batch in whole_epochs:
        assert (batch["ids"][np.arange(len(batch["ids"]))[:, None], batch["cls"]][batch["next_weights"] > 0] == 2).all()
    for name in ("weights", "next_weights"):
        assert alone[name].sum() == packed[name].sum()


def test_the_loss_of_each_pair_is_that_of_the_pair_alone(whole_epochs: tuple[batches.Batch, batches.Batch]) -> None:
    def pair_losses(batch: batches.Batch) -> np.ndarray:
        inputs = [jnp.asarray(batch[k]) for k in ("ids", "segments", "positions", "spans", "predict", "cls")]
        mlm_logits_BMV, nsp_logits_BPC = (jax.nn.log_softmax(x) for x in tiny.pretrain(model(), *inputs))
        mlm_BM = -np.take_along_axis(np.asarray(mlm_logits_BMV), batch["labels"][..., None], -1)[..., 0]
        nsp_BP = -np.take_along_axis(np.asarray(nsp_logits_BPC), batch["next"][..., None], -1)[..., 0]
        span_BM = np.take_along_axis(batch["spans"], batch["predict"], axis=1)
        mlm_BP = [((span_BM == k + 1) * batch["weights"] * mlm_BM).sum(axis=1) for k in range(nsp_BP.shape[1])]
        real_BP = batch["next_weights"] > 0
        losses_N2 = np.stack([np.stack(mlm_BP, axis=1)[real_BP], nsp_BP[real_BP]], axis=1)
        return losses_N2[np.argsort(losses_N2[:, 0])]

    alone, packed = map(pair_losses, whole_epochs)
    np.testing.assert_allclose(alone, packed, rtol=1e-5, atol=1e-5)


def test_loss_and_gradients_are_those_of_the_pairs_alone(whole_epochs: tuple[batches.Batch, batches.Batch]) -> None:
    definition, weights = nnx.split(model(), nnx.Param)

    def loss(weights: nnx.State, batch: batches.Batch) -> jax.Array:
        return objective(pretraining_loss(nnx.merge(definition, weights), jax.tree.map(jnp.asarray, batch), None))

    (alone, alone_gradients), (packed, packed_gradients) = (
        jax.jit(jax.value_and_grad(loss))(weights, batch) for batch in whole_epochs
    )
    assert float(alone) == pytest.approx(float(packed), abs=1e-5)
    for a, b in zip(jax.tree.leaves(alone_gradients), jax.tree.leaves(packed_gradients), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)

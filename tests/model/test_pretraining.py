from __future__ import annotations

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax.config import MeshConfig
from bertjax.model.params import name_of
from bertjax.sharding import ACT_B, make_mesh
from tests.model import tiny

PREDICT_BM = jnp.array([[2, 5, 9]])
CLS_BP = jnp.array([[0, 7]])


def test_heads_read_the_positions_they_are_given() -> None:
    model, rows = tiny.bert(), tiny.rows([[7, 4]])
    mlm_logits_BMV, nsp_logits_BPC = tiny.pretrain(model, *rows, PREDICT_BM, CLS_BP)
    x_BSD = tiny.encode(model.encoder, rows)
    whole_BSV = model.masked_lm(x_BSD, model.encoder.embeddings.token.embedding[...])
    np.testing.assert_allclose(mlm_logits_BMV, whole_BSV[:, PREDICT_BM[0]], atol=1e-4)
    np.testing.assert_allclose(nsp_logits_BPC, model.next_sentence(model.pooler(x_BSD[:, CLS_BP[0]])), atol=1e-5)


def test_packed_pairs_get_the_logits_they_get_alone() -> None:
    model, rows = tiny.bert(), tiny.rows([[7, 4]])
    mlm_logits_BMV, nsp_logits_BPC = tiny.pretrain(model, *rows, PREDICT_BM, CLS_BP)
    alone = [x[:, 7:11] for x in rows[:3]]
    mlm_alone_BMV, nsp_alone_BPC = tiny.pretrain(
        model, *alone, jnp.ones((1, 4), jnp.int32), jnp.array([[2]]), jnp.array([[0]])
    )
    np.testing.assert_allclose(mlm_logits_BMV[:, 2:], mlm_alone_BMV, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(nsp_logits_BPC[:, 1:], nsp_alone_BPC, atol=1e-5)


def loss_and_gradients(sizes: tuple[int, int, int]) -> tuple[float, dict[str, np.ndarray]]:
    """Returns a loss with dropout and its gradients by every weight, computed on a mesh of these sizes."""
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        graphdef, params = nnx.split(tiny.bert())
        rows = tiny.rows([[12], [7, 4], [3, 3, 3], [5]] * 2)
        heads = [np.tile(x, (8, 1)) for x in (PREDICT_BM, CLS_BP)]
        batch = jax.device_put((*map(np.asarray, rows), *heads), jax.NamedSharding(mesh, ACT_B))

        @jax.jit
        @jax.value_and_grad
        def loss(params: nnx.State, batch: tuple[jax.Array, ...], key: jax.Array) -> jax.Array:
            model: Any = nnx.merge(graphdef, params)
            mlm_logits_BMV, nsp_logits_BPC = model(*batch, key=key)
            likely_BMV = jax.nn.log_softmax(mlm_logits_BMV) * jax.nn.one_hot(batch[4], 256)
            return -jnp.mean(jnp.sum(likely_BMV, axis=-1)) - jnp.mean(jax.nn.log_softmax(nsp_logits_BPC)[..., 0])

        value, gradients = loss(params, batch, jax.random.key(3))
        named = {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(gradients)}
    return float(value), named


@functools.cache
def on_one_device() -> tuple[float, dict[str, np.ndarray]]:
    return loss_and_gradients((1, 1, 1))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)])
def test_every_mesh_computes_the_same(sizes: tuple[int, int, int], capfd: pytest.CaptureFixture[str]) -> None:
    """Weights, dropout and gradients are those of one device, and nothing is gathered for want of a way to cut it."""
    wanted_value, wanted = on_one_device()
    value, gradients = loss_and_gradients(sizes)
    assert value == pytest.approx(wanted_value, rel=1e-5)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, wanted[name], atol=1e-5, err_msg=name)
    assert not re.search("rematerialization", capfd.readouterr().err)


def test_weights_are_born_cut_and_the_same_on_every_mesh() -> None:
    with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
        born = tiny.init()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(born), tiny.params())
    part = {name_of(path): leaf.addressable_shards[0].data.shape for path, leaf in jax.tree.leaves_with_path(born)}
    assert part["encoder.embeddings.token.embedding"] == (256 // 4, 32)
    assert part["encoder.blocks.qkv.kernel"] == (2, 3, 32 // 2, 8 // 2, 4)
    assert part["encoder.blocks.out.kernel"] == (2, 8 // 2, 4, 32 // 2)
    assert part["encoder.blocks.up.kernel"] == (2, 32 // 2, 64 // 2)
    assert part["encoder.blocks.down.kernel"] == (2, 64 // 2, 32 // 2)
    assert part["masked_lm.bias"] == (256 // 4,)

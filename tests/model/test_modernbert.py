from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax.config import MeshConfig, ModelConfig
from bertjax.model.encoder import Encoder
from bertjax.model.modernbert import rotated, rotations
from bertjax.sharding import make_mesh
from tests.model import tiny

CONFIG = dataclasses.replace(
    tiny.CONFIG, family="modernbert", layers=3, global_every=3, local_window=4, norm_epsilon=1e-5
)


def encoder(c: ModelConfig = CONFIG) -> Encoder:
    return jax.jit(lambda: Encoder(c, rngs=nnx.Rngs(0)))()


def test_packed_spans_are_as_if_alone_and_padding_is_invisible() -> None:
    model = encoder()
    packed = tiny.rows([[7, 4]])
    packed_BSD = tiny.encode(model, packed)
    for span in (np.s_[:, :7], np.s_[:, 7:11]):
        ids_BS, segments_BS, positions_BS, spans_BS = (jnp.array(np.asarray(x)[span]) for x in packed)
        alone_BSD = tiny.encode(model, (ids_BS, segments_BS, positions_BS, jnp.ones_like(spans_BS)))
        np.testing.assert_allclose(packed_BSD[span], alone_BSD, atol=1e-5)


@pytest.mark.parametrize(("number", "distance"), [(0, 12), (1, 2), (2, 2), (3, 12)])
def test_layers_see_everything_or_half_the_window_on_each_side(number: int, distance: int) -> None:
    graphdef, stacked = nnx.split(encoder().blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[1], stacked))
    x_BSD = jax.random.normal(jax.random.key(0), (1, 12, 32))
    spans_BS = jnp.ones((1, 12), jnp.int32)

    def outputs(nudge_SD: jax.Array) -> jax.Array:
        return jnp.sum(block(x_BSD + nudge_SD[None], spans_BS, jnp.int32(number), key=None)[..., :3], axis=(0, 2))

    jacobian_STD = jax.jit(jax.jacrev(outputs))(jnp.zeros((12, 32)))
    seen_ST = np.abs(jacobian_STD).max(axis=-1) > 0
    places = np.arange(12)
    np.testing.assert_array_equal(seen_ST, np.abs(places[:, None] - places[None, :]) <= distance)


def test_rotation_keeps_lengths_and_its_products_depend_on_the_distance_only() -> None:
    cos_SK, sin_SK = rotations(20, 8, 10_000.0)
    x_K, y_K = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    x_SK, y_SK = (np.asarray(rotated(jnp.tile(v, (1, 20, 1, 1)), cos_SK, sin_SK))[0, :, 0] for v in (x_K, y_K))
    np.testing.assert_allclose(np.linalg.norm(x_SK, axis=-1), np.linalg.norm(x_K), rtol=1e-5)
    products = x_SK @ y_SK.T
    for offset in (-3, 0, 7):
        np.testing.assert_allclose(np.diagonal(products, offset), np.diagonal(products, offset)[0], rtol=1e-4)
    assert np.ptp(products[0]) > 0.1


def test_any_mesh_computes_the_same() -> None:
    batch = tiny.rows([[12]] * 8)
    with jax.set_mesh(tiny.one_device()):
        wanted_BSD = np.asarray(tiny.encode(encoder(), batch))
    for sizes in (MeshConfig(data=8), MeshConfig(data=2, fsdp=2, model=2)):
        mesh = make_mesh(sizes)
        with jax.set_mesh(mesh):
            cut = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
            found_BSD = tiny.encode(encoder(), [jax.device_put(x, cut) for x in batch])
            np.testing.assert_allclose(found_BSD, wanted_BSD, atol=1e-4)


def test_it_has_no_biases() -> None:
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(encoder(), nnx.Param))
    assert not [path for path, _ in leaves if "bias" in jax.tree_util.keystr(path)]

"""A model small enough for a test, and rows to put into it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax.config import MeshConfig, ModelConfig
from bertjax.model.encoder import Encoder
from bertjax.model.params import Params, params_of
from bertjax.model.pretraining import BertForPretraining
from bertjax.sharding import make_mesh

CONFIG = ModelConfig(vocab_size=150, width=32, layers=2, heads=8, mlp_width=64, max_positions=16, init_std=0.3)
"""A large init_std, so that every token matters to every other."""

Rows = Sequence[jax.Array]


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


@jax.jit
def init() -> Params:
    return params_of(BertForPretraining(CONFIG, rngs=nnx.Rngs(0)))


@functools.cache
def params() -> Params:
    """Returns fresh weights of CONFIG's shapes, on the host."""
    with jax.set_mesh(one_device()):
        on_host: Params = jax.device_get(init())
    return on_host


def bert(c: ModelConfig = CONFIG) -> BertForPretraining:
    """Returns a model with these weights, placed on the mesh that is set."""
    abstract = nnx.eval_shape(lambda: BertForPretraining(c, rngs=nnx.Rngs(0)))
    mesh = jax.sharding.get_mesh()

    def place(x: np.ndarray, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(x, jax.NamedSharding(mesh, wanted.sharding.spec))

    return nnx.merge(nnx.graphdef(abstract), jax.tree.map(place, params(), params_of(abstract)))


def encoder(c: ModelConfig = CONFIG) -> Encoder:
    return bert(c).encoder


@functools.partial(jax.jit, static_argnames="all_layers")
def encode(model: Encoder, rows: Rows, key: jax.Array | None = None, all_layers: bool = False) -> jax.Array:
    return model(*rows, key=key, all_layers=all_layers)


@jax.jit
def pretrain(model: BertForPretraining, *inputs: jax.Array) -> Any:
    return model(*inputs)


def rows(lengths: list[list[int]], positions: int = 12, seed: int = 0) -> Rows:
    """Returns (ids_BS, segments_BS, positions_BS, spans_BS): in row b pairs of `lengths[b]` tokens, then padding."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), positions)
    ids_BS, segments_BS, positions_BS, spans_BS = (np.zeros(shape, np.int32) for _ in range(4))
    for row, pairs in enumerate(lengths):
        starts = np.cumsum([0, *pairs])
        for span, (start, length) in enumerate(zip(starts, pairs, strict=False), 1):
            here = np.s_[row, start : start + length]
            ids_BS[here] = rng.integers(1, CONFIG.vocab_size, length)
            segments_BS[here] = np.arange(length) >= length // 2
            positions_BS[here] = np.arange(length)
            spans_BS[here] = span
    return jnp.array(ids_BS), jnp.array(segments_BS), jnp.array(positions_BS), jnp.array(spans_BS)

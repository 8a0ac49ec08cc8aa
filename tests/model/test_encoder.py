from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax.config import MeshConfig, ModelConfig
from bertjax.errors import UserError
from bertjax.model.attention import attention
from bertjax.model.encoder import Embeddings, Encoder, check_mesh, padded_vocab_size
from bertjax.sharding import make_mesh
from tests.model import tiny

PACKED, FIRST, SECOND = tiny.rows([[7, 4]]), np.s_[:, :7], np.s_[:, 7:11]
MODERN = dataclasses.replace(tiny.CONFIG, family="modernbert", layers=3, global_every=3, local_window=4)


def test_padding_is_invisible() -> None:
    """Neither more padding nor what stands in it changes a real position."""
    short, long = tiny.rows([[9]], positions=9), tiny.rows([[9]], positions=16)
    ids_BS, *others = long
    scribbled = (ids_BS.at[:, 9:].set(77), *others)
    wanted_BSD = tiny.encode(tiny.encoder(), short)
    for padded in (long, scribbled):
        x_BSD = tiny.encode(tiny.encoder(), padded)
        assert jnp.all(jnp.isfinite(x_BSD))
        np.testing.assert_allclose(x_BSD[:, :9], wanted_BSD, atol=1e-5)


def test_every_position_sees_both_directions_and_its_own_span_only() -> None:
    """The gradient of each output by each embedded token is zero exactly across spans."""
    model = tiny.encoder()
    ids_BS, segments_BS, positions_BS, spans_BS = tiny.rows([[5, 4]])

    def outputs(nudge_SD: jax.Array) -> jax.Array:
        x_BSD = model.embeddings(ids_BS, segments_BS, positions_BS, key=None) + nudge_SD[None]
        graphdef, stacked = nnx.split(model.blocks)
        block = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[0], stacked))
        return jnp.sum(block(x_BSD, spans_BS, jnp.int32(0), key=None)[..., :3], axis=(0, 2))

    jacobian_STD = jax.jit(jax.jacrev(outputs))(jnp.zeros((12, 32)))
    seen_ST = np.abs(jacobian_STD).max(axis=-1) > 0
    np.testing.assert_array_equal(seen_ST, spans_BS[0][:, None] == spans_BS[0][None, :])


def test_packed_pairs_are_as_if_alone() -> None:
    packed_BSD = tiny.encode(tiny.encoder(), PACKED)
    for span in (FIRST, SECOND):
        ids_BS, segments_BS, positions_BS, spans_BS = (jnp.array(np.asarray(x)[span]) for x in PACKED)
        alone_BSD = tiny.encode(tiny.encoder(), (ids_BS, segments_BS, positions_BS, jnp.ones_like(spans_BS)))
        np.testing.assert_allclose(packed_BSD[span], alone_BSD, atol=1e-5)


@pytest.mark.parametrize("c", [tiny.CONFIG, MODERN], ids=["bert", "modernbert"])
def test_attentions_are_shares_within_a_span_that_make_each_layers_attention(c: ModelConfig) -> None:
    spans_BS = PACKED[-1]

    @jax.jit
    def attend() -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
        model = Encoder(c, rngs=nnx.Rngs(0))
        hidden_LBSD = model(*PACKED, all_layers=True)
        weights_LBHST = model.attentions(hidden_LBSD, spans_BS)
        graphdef, stacked = nnx.split(model.blocks)
        averages = []
        for layer in range(c.layers):
            block: Any = nnx.merge(graphdef, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked))
            q_BSHK, k_BSHK, v_BSHK, reach = block.attention_inputs(hidden_LBSD[layer], jnp.int32(layer))
            wanted_BSHK = attention(q_BSHK, k_BSHK, v_BSHK, spans_BS, dropout=0.0, key=None, reach=reach)
            averages.append((jnp.einsum("BHST,BTHK->BSHK", weights_LBHST[layer], v_BSHK), wanted_BSHK))
        return weights_LBHST, averages

    weights_LBHST, averages = attend()
    assert weights_LBHST.shape == (c.layers, 1, c.heads, 12, 12)
    np.testing.assert_allclose(weights_LBHST.sum(axis=-1), 1, rtol=1e-5)
    assert not np.any(np.asarray(weights_LBHST)[..., spans_BS[0][:, None] != spans_BS[0][None, :]])
    for found_BSHK, wanted_BSHK in averages:
        np.testing.assert_allclose(found_BSHK, wanted_BSHK, atol=1e-5)


def test_rows_do_not_know_their_order() -> None:
    batch = tiny.rows([[12], [7, 4], [3]])
    order = np.array([2, 0, 1])
    shuffled_BSD = tiny.encode(tiny.encoder(), [jnp.array(np.asarray(x)[order]) for x in batch])
    np.testing.assert_allclose(shuffled_BSD, np.asarray(tiny.encode(tiny.encoder(), batch))[order], atol=1e-5)


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_unrolled_layers_are_the_scanned_ones(key: jax.Array | None) -> None:
    unrolled = dataclasses.replace(tiny.CONFIG, unroll_layers=True)
    x_BSD, y_BSD = (tiny.encode(tiny.encoder(c), PACKED, key) for c in (tiny.CONFIG, unrolled))
    np.testing.assert_allclose(x_BSD, y_BSD, atol=1e-5)


@pytest.mark.parametrize(("remat", "kept"), [("none", ["bfloat16", "bool"]), ("products", ["bool"]), ("block", [])])
def test_attention_keeps_little_for_the_backward_pass(remat: Any, kept: list[str]) -> None:
    """Its weights in the precision of the products, and what dropout drew."""
    model = tiny.encoder(dataclasses.replace(tiny.CONFIG, remat=remat, max_positions=40))
    graphdef, params = nnx.split(model)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    ids_BS = jnp.ones((3, 40), jnp.int32)

    def residuals(params: nnx.State) -> Any:
        def encode(params: nnx.State) -> jax.Array:
            return nnx.merge(graphdef, params)(ids_BS, 0 * ids_BS, ids_BS, ids_BS, key=jax.random.key(0))

        return jax.vjp(encode, params)[1]

    found = jax.tree.leaves(jax.eval_shape(residuals, params))
    assert sorted(str(x.dtype) for x in found if x.shape[-2:] == (40, 40)) == kept


def test_all_layers_are_the_embeddings_and_every_block() -> None:
    model = tiny.encoder()
    hidden_LBSD = tiny.encode(model, PACKED, all_layers=True)
    assert hidden_LBSD.shape == (3, 1, 12, 32)
    np.testing.assert_allclose(hidden_LBSD[0], model.embeddings(*PACKED[:3], key=None), atol=1e-6)
    np.testing.assert_allclose(hidden_LBSD[-1], tiny.encode(model, PACKED), atol=1e-6)
    assert jnp.all(jnp.std(hidden_LBSD[1:] - hidden_LBSD[:-1], axis=(1, 2, 3)) > 0.01)


def test_dropout_is_on_with_a_key_and_differs_by_place_and_layer() -> None:
    model = tiny.encoder()
    without, first, again, other = (
        tiny.encode(model, PACKED, key) for key in (None, *(jax.random.key(seed) for seed in (0, 0, 1)))
    )
    np.testing.assert_array_equal(first, again)
    assert jnp.any(first != without)
    assert jnp.any(first != other)


def test_layers_start_different() -> None:
    for path, leaf in jax.tree.leaves_with_path(nnx.state(tiny.encoder().blocks)):
        if "kernel" in jax.tree_util.keystr(path):
            assert jnp.any(leaf[0] != leaf[1])


def test_another_block_can_take_the_place() -> None:
    class Doubling(nnx.Module):
        def __init__(self, c: object, *, rngs: nnx.Rngs):
            del c, rngs
            self.factor = nnx.Param(jnp.array(2.0))

        def __call__(
            self,
            x_BSD: jax.Array,
            spans_BS: jax.Array,
            layer: jax.Array,
            *,
            key: jax.Array | None,
            most_spans: int | None,
        ) -> jax.Array:
            del spans_BS, layer, key, most_spans
            return x_BSD * self.factor[...]

    model = Encoder(tiny.CONFIG, rngs=nnx.Rngs(0), make_block=Doubling)
    embedded_BSD = model.embeddings(*PACKED[:3], key=None)
    np.testing.assert_allclose(tiny.encode(model, PACKED), 4 * embedded_BSD, rtol=1e-6)


def test_bfloat16_matrices_compute_in_bfloat16_and_stay_close() -> None:
    graphdef, params = nnx.split(tiny.encoder())

    def cast(path: jax.tree_util.KeyPath, leaf: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf if name.endswith(("bias", "scale")) else leaf.astype(jnp.bfloat16)

    half_BSD = tiny.encode(nnx.merge(graphdef, jax.tree.map_with_path(cast, params)), PACKED)
    assert half_BSD.dtype == jnp.bfloat16
    np.testing.assert_allclose(half_BSD.astype(jnp.float32), tiny.encode(tiny.encoder(), PACKED), atol=0.15)


def test_where_there_is_one_segment_every_token_is_in_it() -> None:
    """So RoBERTa reads the second text of a pair."""
    ids_BS, segments_BS, positions_BS, _ = PACKED
    with jax.set_mesh(tiny.one_device()):
        embed = Embeddings(dataclasses.replace(tiny.CONFIG, segments=1), rngs=nnx.Rngs(0))
        first, other = (embed(ids_BS, x, positions_BS, key=None) for x in (jnp.zeros_like(ids_BS), segments_BS + 1))
        embed.segment.embedding[...] += jnp.arange(32.0)[None]
        moved = embed(ids_BS, jnp.zeros_like(ids_BS), positions_BS, key=None)
    np.testing.assert_array_equal(first, other)
    assert np.abs(np.asarray(moved) - np.asarray(first)).max() > 0.1


def test_ids_beyond_the_tables_are_not_silent() -> None:
    for which, value in ((0, 256), (0, -1), (2, 16)):  # ids, positions
        broken = list(tiny.rows([[12]]))
        broken[which] = broken[which].at[0, 3].set(value)
        assert jnp.all(jnp.isnan(tiny.encode(tiny.encoder(), broken)))


@pytest.mark.parametrize(("vocab_size", "rows"), [(1, 128), (128, 128), (129, 256), (30522, 30592)])
def test_vocabulary_is_padded_to_a_multiple_of_128(vocab_size: int, rows: int) -> None:
    assert padded_vocab_size(dataclasses.replace(tiny.CONFIG, vocab_size=vocab_size)) == rows


def test_padding_of_the_vocabulary_starts_at_zero() -> None:
    table_VD = tiny.encoder().embeddings.token.embedding[...]
    assert jnp.all(table_VD[150:] == 0)
    assert jnp.all(jnp.std(table_VD[:150], axis=-1) > 0)


def test_a_model_without_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="vocab_size is None"):
        padded_vocab_size(dataclasses.replace(tiny.CONFIG, vocab_size=None))


@pytest.mark.parametrize(
    ("changes", "sizes", "message"),
    [
        ({"heads": 2}, (1, 1, 8), r"model.heads=2 does not divide over mesh.model=8; use 2"),
        ({"mlp_width": 12}, (2, 1, 4), None),
        ({"mlp_width": 12}, (1, 1, 8), r"model.mlp_width=12 does not divide over mesh.model=8; use 4"),
        ({"width": 24, "heads": 8}, (1, 8, 1), None),
        ({"width": 36, "heads": 4}, (1, 8, 1), r"model.width=36 does not divide over mesh.fsdp=8; use 4"),
        ({"width": 30, "heads": 6}, (1, 1, 6), r"the padded vocabulary=256 does not divide over .*=6; use 2"),
    ],
)
def test_weights_that_cannot_be_cut_are_named(
    changes: dict[str, Any], sizes: tuple[int, int, int], message: str | None
) -> None:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    c = dataclasses.replace(tiny.CONFIG, **({"mlp_width": 96} | changes))
    with contextlib.nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_mesh(c, mesh)

"""The encoder: embeddings and a stack of blocks. The blocks' weights are stored stacked, one leaf [L, ...] each.

The modules are made and called under `jax.set_mesh(make_mesh(...))`; the shardings are those of bertjax/sharding.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.model import layers, modernbert
from bertjax.model.attention import attention, attention_weights
from bertjax.model.kernels.cudnn import keeps_cudnn
from bertjax.model.residual import add_and_norm
from bertjax.sharding import (
    ACT_B,
    ACT_BSF,
    DOWN_FD,
    EMBED_VD,
    OUT_HKD,
    QKV_BIAS_NHK,
    QKV_NDHK,
    REPLICATED,
    UP_BIAS_F,
    UP_DF,
    AnyMesh,
)

VOCAB_MULTIPLE = 128  # TPU lanes; also divides over every mesh whose (model, fsdp) axes are powers of two up to it

_PRODUCTS_WITH_WEIGHTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_named = jax.checkpoint_policies.save_only_these_names
_both = jax.checkpoint_policies.save_from_both_policies
KEPT = {
    "none": _both(
        _both(_PRODUCTS_WITH_WEIGHTS, keeps_cudnn),
        _named(layers.DRAWS, layers.PROJECTIONS, layers.PRODUCTS, layers.NORMS),
    ),
    "products": _both(_PRODUCTS_WITH_WEIGHTS, _named(layers.DRAWS, layers.PROJECTIONS)),
    "block": jax.checkpoint_policies.nothing_saveable,
}
"""What is kept of a block for the backward pass, beside what goes into it, by the config's name for what is not."""


def padded_vocab_size(c: ModelConfig) -> int:
    """Returns the rows of the token embedding: the vocabulary and padding up to a multiple of 128."""
    return -(-_vocab_size(c) // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def is_token(c: ModelConfig) -> jax.Array:
    """Returns is_token_V, False on the padding of the vocabulary."""
    return jnp.arange(padded_vocab_size(c)) < _vocab_size(c)


def check_mesh(c: ModelConfig, mesh: AnyMesh) -> None:
    """Raises UserError, naming what does not divide, unless the weights can be cut over the mesh."""
    model, fsdp, rows = mesh.shape["model"], mesh.shape["fsdp"], padded_vocab_size(c)
    for name, size, cuts, axis in (
        ("model.heads", c.heads, model, "mesh.model"),
        ("model.mlp_width", c.mlp_width, model, "mesh.model"),
        ("model.width", c.width, fsdp, "mesh.fsdp"),
        ("the padded vocabulary", rows, model * fsdp, "mesh.model x mesh.fsdp"),
    ):
        if size % cuts:
            raise UserError(f"{name}={size} does not divide over {axis}={cuts}; use {math.gcd(size, cuts)}")


def _vocab_size(c: ModelConfig) -> int:
    if c.vocab_size is None:
        raise UserError("model.vocab_size is None; take it from the tokenizer before the model is made")
    return c.vocab_size


class Embeddings(nnx.Module):
    """Sum of token, position and segment embeddings, normalized (Devlin et al. 2019, section 3, figure 2)."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.token = layers.Embed(c, padded_vocab_size(c), EMBED_VD, rngs=rngs)
        self.token.embedding[...] = jnp.where(is_token(c)[:, None], self.token.embedding[...], 0)
        self.position = layers.Embed(c, c.position_offset + c.max_positions, REPLICATED, rngs=rngs)
        self.segment = layers.Embed(c, c.segments, REPLICATED, rngs=rngs)
        self.norm = layers.LayerNorm(c, rngs=rngs)
        self.c = c

    def __call__(
        self, ids_BS: jax.Array, segments_BS: jax.Array, positions_BS: jax.Array, *, key: jax.Array | None
    ) -> jax.Array:
        """Returns x_BSD; NaN where an id or a position is beyond its table."""
        x_BSD = self.token(ids_BS) + self.position(self.c.position_offset + positions_BS) + self._segment(segments_BS)
        return layers.dropout(self.norm(x_BSD), self.c.dropout, key)

    def _segment(self, segments_BS: jax.Array) -> jax.Array:
        # A product and not a gather, whose gradient would add all tokens into two rows one by one. It is exact: every
        # sum has one term, and the highest precision keeps its digits.
        segment_GD = self.segment.embedding[...]
        if self.c.segments == 1:  # as RoBERTa's, which tells the two texts of a pair by what stands between them
            return segment_GD[None]
        one_hot_BSG = jax.nn.one_hot(segments_BS, self.c.segments, dtype=segment_GD.dtype)
        return jnp.einsum("BSG,GD->BSD", one_hot_BSG, segment_GD, precision="highest")


class Block(nnx.Module):
    """Post-LayerNorm block: attention, feed-forward, each added to its input and normalized.

    Source: Vaswani et al. 2017, section 3.1; Devlin et al. 2019, section 3.
    """

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        head_width = c.width // c.heads
        self.qkv = nnx.Einsum(
            "BSD,NDHK->BSNHK",
            (3, c.width, c.heads, head_width),
            (3, c.heads, head_width),
            **layers.weights(c, QKV_NDHK, QKV_BIAS_NHK),
            rngs=rngs,
        )
        self.out = nnx.Einsum(
            "BSHK,HKD->BSD", (c.heads, head_width, c.width), (c.width,), **layers.weights(c, OUT_HKD), rngs=rngs
        )
        self.attention_norm = layers.LayerNorm(c, rngs=rngs)
        self.up = nnx.Linear(c.width, c.mlp_width, **layers.weights(c, UP_DF, UP_BIAS_F), rngs=rngs)
        self.down = nnx.Linear(c.mlp_width, c.width, **layers.weights(c, DOWN_FD), rngs=rngs)
        self.mlp_norm = layers.LayerNorm(c, rngs=rngs)
        self.c = c

    def attention_inputs(self, x_BSD: jax.Array, _layer: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
        """Returns (q_BSHK, k_BSHK, v_BSHK, reach), what `attention` takes; every layer reaches everywhere."""
        q_BSHK, k_BSHK, v_BSHK = layers.projections(x_BSD, self.qkv)
        return q_BSHK, k_BSHK, v_BSHK, None

    def __call__(
        self,
        x_BSD: jax.Array,
        spans_BS: jax.Array,
        layer: jax.Array,
        *,
        key: jax.Array | None,
        most_spans: int | None = None,
    ) -> jax.Array:
        """Returns x_BSD one layer on."""
        weights_key, attention_key, mlp_key = layers.split(key, 3)
        q_BSHK, k_BSHK, v_BSHK, _ = self.attention_inputs(x_BSD, layer)
        c, of = self.c, layers.array_of
        how: dict[str, Any] = {"dropout": c.attention_dropout, "kernel": c.attention, "most_spans": most_spans}
        o_BSHK = attention(q_BSHK, k_BSHK, v_BSHK, spans_BS, key=weights_key, **how)
        o_BSD = layers.product("BSHK,HKD->BSD", o_BSHK, of(self.out.kernel), ACT_B)
        x_BSD = add_and_norm(x_BSD, o_BSD, of(self.out.bias), self.attention_norm, c, key=attention_key)
        h_BSF = layers.gelu(self.up(x_BSD, out_sharding=ACT_BSF), c)
        h_BSD = layers.product("BSF,FD->BSD", h_BSF, of(self.down.kernel), ACT_B)
        return add_and_norm(x_BSD, h_BSD, of(self.down.bias), self.mlp_norm, c, key=mlp_key)


class Encoder(nnx.Module):
    """Embeddings and `c.layers` blocks. Another family is another `make_block` with Block's signatures."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs, make_block: Callable[..., nnx.Module] | None = None):
        self.embeddings: Embeddings | modernbert.Embeddings
        self.final_norm: Callable[[jax.Array], jax.Array]
        if c.family == "modernbert":
            self.embeddings = modernbert.Embeddings(c, padded_vocab_size(c), rngs=rngs)
            self.final_norm = layers.LayerNorm(c, rngs=rngs)
            make_block = make_block or modernbert.Block
        else:
            self.embeddings = Embeddings(c, rngs=rngs)
            self.final_norm = _unchanged  # its blocks end in one
            make_block = make_block or Block
        stack = nnx.vmap(lambda r: make_block(c, rngs=r), transform_metadata={nnx.PARTITION_NAME: None})
        self.blocks = stack(rngs.split(c.layers))
        self.c = c

    def __call__(
        self,
        ids_BS: jax.Array,
        segments_BS: jax.Array,
        positions_BS: jax.Array,
        spans_BS: jax.Array,
        *,
        key: jax.Array | None = None,
        all_layers: bool = False,
        most_spans: int | None = None,
    ) -> jax.Array:
        """Returns the last hidden states x_BSD, or those of all layers [L + 1, B, S, D], the embeddings first.

        `spans_BS` is 0 on padding and k on the k-th pair of the row; attention stays within a span.
        No row has more than `most_spans`, if that is known, one after the other from its first position on, and then
        padding: kernels may need that.
        Dropout is on exactly when `key` is given.
        """
        embed_key, blocks_key = layers.split(key, 2)
        x_BSD = self.embeddings(ids_BS, segments_BS, positions_BS, key=embed_key)
        graphdef, stacked = nnx.split(self.blocks)

        def body(
            x_BSD: jax.Array, layer: tuple[nnx.State, jax.Array, jax.Array | None]
        ) -> tuple[jax.Array, jax.Array | None]:
            weights, number, layer_key = layer
            x_BSD = nnx.merge(graphdef, weights)(x_BSD, spans_BS, number, key=layer_key, most_spans=most_spans)
            return x_BSD, x_BSD if all_layers else None

        keys = None if blocks_key is None else jax.random.split(blocks_key, self.c.layers)
        scanned = (stacked, jnp.arange(self.c.layers), keys)
        unroll = self.c.unroll_layers is True  # who trains it decides `auto`; asked once, it is scanned
        # A loop's barrier already keeps XLA from merging the second computation with the first.
        body = jax.checkpoint(body, policy=KEPT[self.c.remat], prevent_cse=unroll)
        last_BSD, hidden_LBSD = jax.lax.scan(body, x_BSD, scanned, unroll=unroll)
        last_BSD = self.final_norm(last_BSD)
        return last_BSD if hidden_LBSD is None else jnp.concatenate([x_BSD[None], hidden_LBSD[:-1], last_BSD[None]])

    def attentions(self, hidden_LBSD: jax.Array, spans_BS: jax.Array) -> jax.Array:
        """Returns weights_LBHST of every layer, float32, from the hidden states of `all_layers`, without dropout.

        They are recomputed from what each layer reads, so that training may use a kernel that never has them.
        """
        graphdef, stacked = nnx.split(self.blocks)

        def weights_BHST(layer: tuple[nnx.State, jax.Array, jax.Array]) -> jax.Array:
            weights, number, x_BSD = layer
            block: Any = nnx.merge(graphdef, weights)
            q_BSHK, k_BSHK, _, reach = block.attention_inputs(x_BSD, number)
            return attention_weights(q_BSHK, k_BSHK, spans_BS, reach=reach)

        return jax.lax.map(weights_BHST, (stacked, jnp.arange(self.c.layers), hidden_LBSD[:-1]))


def _unchanged(x_BSD: jax.Array) -> jax.Array:
    return x_BSD

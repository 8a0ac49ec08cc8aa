"""What a model computes when it is asked: jitted functions of (graphdef, params, batch). bertjax/inference.py asks.

Shape letters: B batch (rows), S position, T key position, D width, H heads, L layers, P texts in a row, M masked
positions, V vocabulary, K candidates, C classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax.model.heads import means_over_spans
from bertjax.model.params import Params
from bertjax.model.pretraining import gather
from bertjax.sharding import ACT_B
from bertjax.tasks import classification
from bertjax.training.step import Batch

Pooling = Literal["mean", "cls"]

PER_ROW = 32
"""Texts that share a row at most, where their vectors are wanted."""


@functools.partial(jax.jit, static_argnames="graphdef")
def hidden(graphdef: nnx.GraphDef[Any], params: Params, batch: Batch) -> jax.Array:
    """Returns the last hidden states x_BSD."""
    encoder = nnx.merge(graphdef, params).encoder
    hidden_BSD: jax.Array = encoder(batch["ids"], batch["segments"], batch["positions"], batch["spans"])
    return hidden_BSD


@functools.partial(jax.jit, static_argnames="graphdef")
def hidden_of_all_layers(graphdef: nnx.GraphDef[Any], params: Params, batch: Batch) -> jax.Array:
    """Returns hidden_BLSD, the rows first."""
    encoder = nnx.merge(graphdef, params).encoder
    hidden_LBSD = encoder(batch["ids"], batch["segments"], batch["positions"], batch["spans"], all_layers=True)
    return jnp.swapaxes(hidden_LBSD, 0, 1)


@functools.partial(jax.jit, static_argnames="graphdef")
def attentions(graphdef: nnx.GraphDef[Any], params: Params, batch: Batch) -> jax.Array:
    """Returns weights_BLHST, the rows first."""
    encoder = nnx.merge(graphdef, params).encoder
    hidden_LBSD = jnp.swapaxes(hidden_of_all_layers(graphdef, params, batch), 0, 1)
    return jnp.swapaxes(encoder.attentions(hidden_LBSD, batch["spans"]), 0, 1)


@functools.partial(jax.jit, static_argnames=("graphdef", "pooling"))
def pooled(graphdef: nnx.GraphDef[Any], params: Params, batch: Batch, pooling: Pooling) -> jax.Array:
    """Returns vectors_BPD, of every text of each row."""
    x_BSD, spans_BS = hidden(graphdef, params, batch), batch["spans"]
    if pooling == "mean":
        return means_over_spans(x_BSD, spans_BS, PER_ROW)
    first_BP = jnp.argmax(spans_BS[:, None, :] == 1 + jnp.arange(PER_ROW)[None, :, None], axis=-1)
    return gather(x_BSD, first_BP)


@functools.partial(jax.jit, static_argnames=("graphdef", "vocab_size", "top_k"))
def likeliest(
    graphdef: nnx.GraphDef[Any], params: Params, batch: Batch, predict_BM: jax.Array, vocab_size: int, top_k: int
) -> tuple[jax.Array, jax.Array]:
    """Returns (probabilities_BMK, ids_BMK) among the entries that the tokenizer has, which may be fewer than V."""
    model = nnx.merge(graphdef, params)
    x_BMD = gather(hidden(graphdef, params, batch), predict_BM)
    logits_BMV = model.masked_lm(x_BMD, model.encoder.embeddings.token.embedding[...])
    logits_BMV = jax.sharding.reshard(logits_BMV, ACT_B)[..., :vocab_size]
    probabilities_BMK, ids_BMK = jax.lax.top_k(jax.nn.softmax(logits_BMV.astype(jnp.float32)), top_k)
    return probabilities_BMK, ids_BMK


@functools.partial(jax.jit, static_argnames=("graphdef", "function"))
def of_tokens(
    graphdef: nnx.GraphDef[Any], params: Params, batch: Batch, function: Callable[[Any, Batch], jax.Array]
) -> jax.Array:
    """Returns logits_BSC, or logits_BK of choices, by a task's function."""
    return function(nnx.merge(graphdef, params), batch)


def as_it_is(logits: jax.Array) -> jax.Array:
    """Returns the logits: a regression's are its scores."""
    return logits


@functools.partial(jax.jit, static_argnames=("graphdef", "normalize"))
def probabilities(
    graphdef: nnx.GraphDef[Any], params: Params, batch: Batch, normalize: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """Returns probabilities_BC, or scores_BC, of a classifier's or a regression's logits in float32."""
    return normalize(classification.logits(nnx.merge(graphdef, params), batch).astype(jnp.float32))

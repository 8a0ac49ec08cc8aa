"""The heads: sentence vectors, masked-LM, next-sentence, what stands before a classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax.config import ModelConfig, Pooling
from bertjax.model import layers
from bertjax.model.encoder import is_token, padded_vocab_size
from bertjax.sharding import ACT_B, DENSE_DD, LOGITS_BMV, LOGITS_V, REPLICATED, VOCAB_BIAS_V


class Pooler(nnx.Module):
    """The sentence vector: a dense layer and tanh over the hidden state of [CLS]."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(c.width, c.width, **layers.weights(c, DENSE_DD), rngs=rngs)

    def __call__(self, x_BPD: jax.Array) -> jax.Array:
        """Returns pooled_BPD."""
        return jnp.tanh(self.dense(x_BPD, out_sharding=ACT_B))


def mean_over_span(x_BSD: jax.Array, spans_BS: jax.Array) -> jax.Array:
    """Returns the mean over a row's tokens, [CLS] and [SEP] too and padding not, [B, D]; 0 where all is padding."""
    real_BS1 = (spans_BS > 0)[..., None]
    return jnp.sum(x_BSD * real_BS1, axis=1) / jnp.maximum(jnp.sum(real_BS1, axis=1), 1)


def means_over_spans(x_BSD: jax.Array, spans_BS: jax.Array, number: int) -> jax.Array:
    """Returns the mean over the tokens of each of a row's spans, [B, `number`, D]; 0 where there is no such span."""
    inside_BPS = (spans_BS[:, None, :] == 1 + jnp.arange(number)[None, :, None]).astype(x_BSD.dtype)
    sums_BPD = jnp.einsum("BPS,BSD->BPD", inside_BPS, x_BSD, precision="highest")
    return sums_BPD / jnp.maximum(jnp.sum(inside_BPS, axis=-1, keepdims=True), 1)


def means_of_layers(hidden_LBSD: jax.Array, spans_BS: jax.Array) -> jax.Array:
    """Returns the means over a row's tokens of each layer's hidden states, side by side, [B, L * D].

    Source: Devlin et al. 2019, section 5.3, for vectors of several layers side by side.
    """
    return jnp.concatenate([mean_over_span(x_BSD, spans_BS) for x_BSD in hidden_LBSD], axis=-1)


def text_width(c: ModelConfig, pooling: Pooling) -> int:
    """Returns how long the vector of a text is."""
    return c.width * (c.layers + 1) if pooling == "layers" else c.width


class WeightedMean(nnx.Module):
    """The mean over a row's tokens by learned weights, which start equal: softmax of a product with one vector."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.score = nnx.Linear(
            c.width, 1, **layers.weights(c, REPLICATED) | {"kernel_init": nnx.initializers.zeros}, rngs=rngs
        )

    def __call__(self, x_BSD: jax.Array, spans_BS: jax.Array) -> jax.Array:
        """Returns x_BD."""
        score_BS = self.score(x_BSD, out_sharding=ACT_B)[..., 0].astype(jnp.float32)
        weight_BS = jax.nn.softmax(jnp.where(spans_BS > 0, score_BS, layers.LARGE_NEGATIVE)).astype(x_BSD.dtype)
        return jnp.einsum("BS,BSD->BD", weight_BS, x_BSD)


class Transform(nnx.Module):
    """Dense layer, GELU, LayerNorm: what stands before masked-LM logits, and before all classes of ModernBERT."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(c.width, c.width, use_bias=c.biases, **layers.weights(c, DENSE_DD), rngs=rngs)
        self.norm = layers.LayerNorm(c, rngs=rngs)
        self.c = c

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns what becomes of each vector."""
        return self.norm(layers.gelu(self.dense(x, out_sharding=ACT_B), self.c))


class MaskedLmHead(Transform):
    """A transform, projection by the token embedding (tied), bias.

    Source: google-research/bert, run_pretraining.py, get_masked_lm_output.
    """

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(c, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(padded_vocab_size(c)), out_sharding=VOCAB_BIAS_V)

    def __call__(self, x_BMD: jax.Array, token_VD: jax.Array) -> jax.Array:  # type: ignore[override]
        """Returns logits_BMV; those of the padding of the vocabulary are so low that it has no probability."""
        x_BMD = super().__call__(x_BMD)
        logits_BMV = jnp.einsum("BMD,VD->BMV", x_BMD.astype(token_VD.dtype), token_VD, out_sharding=LOGITS_BMV)
        bias_V = jnp.where(is_token(self.c), self.bias[...], layers.LARGE_NEGATIVE).astype(logits_BMV.dtype)
        return logits_BMV + jax.sharding.reshard(bias_V, LOGITS_V)[None, None]


class NextSentenceHead(nnx.Module):
    """Logits of the two classes: 0, the second segment continues the first; 1, it comes from elsewhere."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        self.dense = nnx.Linear(c.width, 2, **layers.weights(c, REPLICATED), rngs=rngs)

    def __call__(self, pooled_BPD: jax.Array) -> jax.Array:
        """Returns logits_BPC."""
        return self.dense(pooled_BPD, out_sharding=ACT_B)

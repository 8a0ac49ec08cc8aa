from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax.model.heads import MaskedLmHead, NextSentenceHead, Pooler, WeightedMean, mean_over_span
from bertjax.sharding import ACT_B
from tests.model import tiny

X_BMD = jax.random.normal(jax.random.key(0), (2, 3, 32))
TOKEN_VD = jax.random.normal(jax.random.key(1), (256, 32))


def test_padding_ids_are_never_predicted() -> None:
    """Even when their rows and biases are the most attractive, they get no probability and no gradient."""
    head = MaskedLmHead(tiny.CONFIG, rngs=nnx.Rngs(0))
    head.bias[...] = jnp.where(jnp.arange(256) < 150, 0.0, 1e4)

    def surprise(token_VD: jax.Array) -> jax.Array:
        return -jnp.sum(jax.nn.log_softmax(head(X_BMD, token_VD)) * jax.nn.one_hot(5, 256)[None, None])

    token_VD = TOKEN_VD.at[150:].multiply(100)
    for dtype in (jnp.float32, jnp.bfloat16):
        probabilities_BMV = jax.nn.softmax(head(X_BMD, token_VD.astype(dtype)).astype(jnp.float32))
        assert jnp.all(probabilities_BMV[..., 150:] == 0)
        assert jnp.all(jnp.argmax(probabilities_BMV, axis=-1) < 150)
    gradient_VD = jax.grad(surprise)(token_VD)
    assert jnp.all(gradient_VD[150:] == 0)
    assert jnp.all(jnp.any(gradient_VD[:150] != 0, axis=-1))


def test_masked_lm_head_projects_by_the_token_embedding() -> None:
    head = MaskedLmHead(tiny.CONFIG, rngs=nnx.Rngs(0))
    head.bias[...] = jax.random.normal(jax.random.key(2), (256,))
    h_BMD = jax.nn.gelu(X_BMD @ head.dense.kernel[...], approximate=False)
    h_BMD = (h_BMD - h_BMD.mean(-1, keepdims=True)) / h_BMD.std(-1, keepdims=True)
    wanted_BMV = h_BMD @ TOKEN_VD.T + head.bias[...][None, None]
    np.testing.assert_allclose(head(X_BMD, TOKEN_VD)[..., :150], wanted_BMV[..., :150], atol=1e-4)


def test_pooler_is_a_dense_layer_and_tanh() -> None:
    pooler = Pooler(tiny.CONFIG, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(pooler(X_BMD), np.tanh(X_BMD @ pooler.dense.kernel[...]), atol=1e-5)


def test_next_sentence_head_has_two_classes() -> None:
    assert NextSentenceHead(tiny.CONFIG, rngs=nnx.Rngs(0))(X_BMD).shape == (2, 3, 2)


SPANS_BS = jnp.array([[1, 1, 0], [1, 2, 2]])


def of_rows(x: jax.Array) -> jax.Array:
    """Returns the array as a batch is: its rows on the mesh's axes, which newer jax tells apart from none."""
    return jax.sharding.reshard(x, ACT_B)


def test_means_leave_padding_out() -> None:
    expected_BD = np.stack([X_BMD[0, :2].mean(0), X_BMD[1].mean(0)])
    x_BMD, spans_BS = of_rows(X_BMD), of_rows(SPANS_BS)
    np.testing.assert_allclose(mean_over_span(x_BMD, spans_BS), expected_BD, atol=1e-6)
    weighted = WeightedMean(tiny.CONFIG, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(weighted(x_BMD, spans_BS), expected_BD, atol=1e-6)  # the weights start equal


def test_learned_weights_choose_positions() -> None:
    weighted = WeightedMean(tiny.CONFIG, rngs=nnx.Rngs(0))
    weighted.score.kernel[...] = 100 * X_BMD[1, 2][:, None]
    x_BMD, spans_BS = of_rows(X_BMD), of_rows(SPANS_BS)
    np.testing.assert_allclose(weighted(x_BMD, spans_BS)[1], X_BMD[1, 2], atol=1e-4)
    apart_BD = weighted(of_rows(X_BMD.at[0, 2].set(X_BMD[1, 2])), spans_BS)
    np.testing.assert_allclose(apart_BD[0], weighted(x_BMD, spans_BS)[0])  # padding is not chosen

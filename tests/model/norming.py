"""What the tests of residual sums and their norms put in, and what they compare."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.model import layers
from bertjax.model.residual import add_and_norm
from bertjax.sharding import ACT_B
from tests.model.attending import Arrays

KEY = jax.random.key(3)


def norm_inputs(rows: int, positions: int, width: int) -> Arrays:
    """Returns (x_BSD, y_BSD, bias_D, scale_D, shift_D, weights_BSD)."""
    rng = np.random.default_rng(0)
    shapes = [(rows, positions, width)] * 2 + [(width,)] * 3 + [(rows, positions, width)]
    return tuple(jnp.array(rng.normal(size=shape), jnp.float32) for shape in shapes)


def sums_and_gradients(c: ModelConfig, inputs: Arrays, key: jax.Array | None = KEY) -> tuple[jax.Array, Arrays]:
    """Returns what add_and_norm gives, and the gradients by all that goes in."""
    *arrays, weights_BSD = inputs

    def weighted(
        x_BSD: jax.Array, y_BSD: jax.Array, bias_D: jax.Array, scale_D: jax.Array, shift_D: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        norm = layers.LayerNorm(c, rngs=nnx.Rngs(0))
        norm.scale, norm.bias = nnx.Param(scale_D), nnx.Param(shift_D)
        x_BSD, y_BSD = (jax.sharding.reshard(x, ACT_B) for x in (x_BSD, y_BSD))
        out_BSD = add_and_norm(x_BSD, y_BSD, bias_D, norm, c, key=key)
        return jnp.sum(out_BSD * jax.sharding.reshard(weights_BSD, ACT_B)), out_BSD

    (_, out_BSD), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2, 3, 4), has_aux=True))(*arrays)
    return out_BSD, gradients

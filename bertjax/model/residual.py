"""The end of a sublayer: the one place that chooses how what it gives is added to what it read, and normalized."""

from __future__ import annotations

import jax

from bertjax import sharding
from bertjax.config import ModelConfig
from bertjax.model import kernels, layers


def add_and_norm(
    x_BSD: jax.Array,
    y_BSD: jax.Array,
    bias_D: jax.Array,
    norm: layers.LayerNorm,
    c: ModelConfig,
    *,
    key: jax.Array | None,
) -> jax.Array:
    """Returns the normalized sum of x and y + bias, of which dropout has zeroed its share.

    A kernel that is asked for and cannot gives way to the reference: a model trained on a GPU is read elsewhere, too.
    Source: Vaswani et al. 2017, sections 3.1 and 5.4.
    """
    device = sharding.device_of(jax.sharding.get_abstract_mesh())
    if kernels.norm_of(c, device) == "xla":
        y_BSD = y_BSD + bias_D.astype(y_BSD.dtype)[None, None]
        return norm(x_BSD + layers.dropout(y_BSD, c.dropout, key))
    # Imported here: Triton is there for GPUs only.
    from bertjax.model.kernels import triton_norm

    keep_BSD = layers.draw_kept(y_BSD.shape, c.dropout, key, jax.typeof(y_BSD).sharding)
    params = (bias_D, layers.array_of(norm.scale), layers.array_of(norm.bias))
    return triton_norm.add_and_norm(x_BSD, y_BSD, keep_BSD, *params, layers.kept_scale(c.dropout), c.norm_epsilon)

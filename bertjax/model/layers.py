"""What every part of the model is made of: dense layers' settings, LayerNorm, GELU, dropout.

Arrays are named by their dimensions: B batch (rows), S position, T key position, D width, H heads, K head width,
F feed-forward, V vocabulary, M predicted positions, P pairs in a row, L layers, C classes, N the three of query, key
and value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry2x32_p
from jax.sharding import NamedSharding, PartitionSpec

from bertjax import sharding
from bertjax.config import ModelConfig
from bertjax.sharding import ACT_B, ACT_BSHK, ACT_BSNHK, REPLICATED

LARGE_NEGATIVE = -1e9
"""Takes all probability from a logit, and stays finite in bfloat16 and when a whole row has it."""

DRAWS = "draws"
"""What dropout keeps, by which rematerialisation knows it: a byte, and much work to draw again."""

PROJECTIONS = "projections"
"""Query, key and value with their biases: the products without need not be kept then."""

PRODUCTS = "attention products"
"""The averages that attention gives, and the weights that they are of, or a kernel's sums of them."""

NORMS = "norms"
"""What a kernel normalized, and the statistics that its backward pass needs."""

LEVELS = 2**16
"""Steps in which a dropout rate can be set: each element's draw is 16 bits."""


def initializer(c: ModelConfig, spec: PartitionSpec) -> jax.nn.initializers.Initializer:
    """Returns a normal distribution cut at two standard deviations, born sharded as `spec` says.

    The cut narrows it to 0.88 of `init_std`, as TensorFlow's initializer did for the original BERT.
    """
    return functools.partial(nnx.initializers.truncated_normal(c.init_std), out_sharding=spec)


def weights(c: ModelConfig, kernel: PartitionSpec, bias: PartitionSpec = REPLICATED) -> dict[str, Any]:
    """Returns what nnx.Linear and nnx.Einsum are to know of their weights: how to start, how to be cut, which dtype."""
    return {
        "kernel_init": initializer(c, kernel),
        "kernel_metadata": {"out_sharding": kernel},
        "bias_metadata": {"out_sharding": bias},
        "promote_dtype": in_kernel_dtype,
    }


def in_kernel_dtype(
    arrays: tuple[jax.Array, jax.Array, jax.Array | None],
    **_: Any,  # flax also passes the dtype that a layer was fixed to; ours are fixed to none
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Returns (inputs, kernel, bias) in the dtype of the kernel, which the caller of the model chooses."""
    inputs, kernel, bias = arrays
    return inputs.astype(kernel.dtype), kernel, None if bias is None else bias.astype(kernel.dtype)


def projections(x_BSD: jax.Array, layer: nnx.Einsum) -> list[jax.Array]:
    """Returns q_BSHK, k_BSHK and v_BSHK by a layer whose kernel is kernel_NDHK.

    Cutting the result of one product apart costs GPUs more than it saves, and CPUs hardly tell (docs/log.md); for TPUs
    libtpu fails to compile some programs with three.
    """
    _, platform = sharding.device_of(jax.sharding.get_abstract_mesh())
    return in_one_product(x_BSD, layer) if platform == "tpu" else in_three_products(x_BSD, layer)


def in_one_product(x_BSD: jax.Array, layer: nnx.Einsum) -> list[jax.Array]:
    """Returns the three cut out of one result."""
    return list(jnp.unstack(layer(x_BSD, out_sharding=ACT_BSNHK), axis=2))


def in_three_products(x_BSD: jax.Array, layer: nnx.Einsum) -> list[jax.Array]:
    """Returns the three by parts of the kernel; kept for the backward pass with their biases."""
    kernels_DHK = jnp.unstack(layer.kernel[...])
    biases_HK = [None] * 3 if layer.bias is None else list(jnp.unstack(layer.bias[...]))
    found = []
    for kernel_DHK, bias_HK in zip(kernels_DHK, biases_HK, strict=True):
        y_BSHK = product("BSD,DHK->BSHK", x_BSD, kernel_DHK, ACT_BSHK)
        if bias_HK is not None:
            y_BSHK = y_BSHK + bias_HK.astype(y_BSHK.dtype)[None, None]
        found.append(checkpoint_name(y_BSHK, PROJECTIONS))
    return found


def product(subscripts: str, x: jax.Array, kernel: jax.Array, cut: PartitionSpec) -> jax.Array:
    """Returns a dense layer's product in the kernel's dtype, without its bias, which is added later."""
    return jnp.einsum(subscripts, x.astype(kernel.dtype), kernel, out_sharding=cut)


def array_of(param: nnx.Param[Any] | None) -> jax.Array:
    """Returns the array of a parameter that not every family has, but the caller's does."""
    assert param is not None
    array: jax.Array = param[...]
    return array


class Embed(nnx.Module):
    """A table of vectors."""

    def __init__(self, c: ModelConfig, rows: int, spec: PartitionSpec, *, rngs: nnx.Rngs):
        table = initializer(c, spec)(rngs.params(), (rows, c.width))
        self.embedding = nnx.Param(table, out_sharding=spec)

    def __call__(self, ids_BS: jax.Array) -> jax.Array:
        """Returns x_BSD; NaN where there is no such row."""
        return look_up(self.embedding[...], ids_BS)


@jax.custom_vjp
def look_up(table_VD: jax.Array, ids_BS: jax.Array) -> jax.Array:
    """Returns x_BSD, the rows of these numbers; NaN where there is no such row.

    The gradient of a row is added up in float32: thousands of [MASK] in a batch would be lost in bfloat16's 8 bits, and
    half of a step's time on a GPU with them (docs/log.md).
    """
    return table_VD.at[ids_BS].get(mode="fill", wrap_negative_indices=False, out_sharding=ACT_B)


def _look_up_and_keep(table_VD: jax.Array, ids_BS: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return look_up(table_VD, ids_BS), (table_VD, ids_BS)


def _add_up(kept: tuple[jax.Array, jax.Array], x_BSD: jax.Array) -> tuple[jax.Array, None]:
    table_VD, ids_BS = kept

    def of_device(ids_BS: jax.Array, x_BSD: jax.Array) -> jax.Array:
        wide_VD = jnp.zeros(table_VD.shape, jnp.float32)
        wide_VD = wide_VD.at[ids_BS].add(x_BSD.astype(jnp.float32), mode="drop", wrap_negative_indices=False)
        # Devices send each other what they send of other weights: gradients in the dtype of these.
        return jax.lax.psum(wide_VD.astype(table_VD.dtype), sharding.BATCH)

    of_rows = jax.shard_map(of_device, in_specs=(ACT_B, ACT_B), out_specs=REPLICATED)
    gradient_VD = of_rows(jax.sharding.reshard(ids_BS, ACT_B), x_BSD)
    return jax.sharding.reshard(gradient_VD, jax.typeof(table_VD).sharding.spec), None


look_up.defvjp(_look_up_and_keep, _add_up)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm over the width, computed in float32 whatever comes in; the variance is that of the centred values."""

    def __init__(self, c: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(
            c.width,
            epsilon=c.norm_epsilon,
            dtype=jnp.float32,
            use_bias=c.biases,
            use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits where the mean is large
            scale_metadata={"out_sharding": REPLICATED},
            bias_metadata={"out_sharding": REPLICATED},
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """Returns the normalized `x` in its own dtype."""
        return super().__call__(x).astype(x.dtype)


def gelu(x: jax.Array, c: ModelConfig) -> jax.Array:
    """Returns x times the normal distribution function of x, or its tanh approximation; computed in float32."""
    wide = x.astype(jnp.float32)
    if c.gelu == "tanh":
        return jax.nn.gelu(wide, approximate=True).astype(x.dtype)
    # By erf, as in PyTorch: jax.nn.gelu takes erfc, of which XLA computes two forms to choose from.
    return (0.5 * wide * (1 + jax.lax.erf(wide * math.sqrt(0.5)))).astype(x.dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns `x` with a share `rate` of its elements zeroed and the rest scaled up; `x` itself if `key` is None."""
    keep = draw_kept(x.shape, rate, key, jax.typeof(x).sharding)
    if keep is None:
        return x
    scaled = x.astype(jnp.float32) * kept_scale(rate)  # in bfloat16 the scale itself would be 0.2 % off
    return jnp.where(keep, scaled, 0).astype(x.dtype)


def draw_kept(shape: Sequence[int], rate: float, key: jax.Array | None, cut: NamedSharding) -> jax.Array | None:
    """Returns for each element of that shape whether dropout keeps it, None if it drops nothing or `key` is None.

    Threefry gives two words at a time, and each decides two elements, one by each half: a quarter of the work. The four
    are a quarter of an axis apart, the last one that is not cut over the mesh.
    """
    dropped = _dropped(rate)
    if key is None or dropped == 0:
        return None
    cuts = (*cut.spec, *[None] * (len(shape) - len(cut.spec)))
    axis = max((axis for axis, over in enumerate(cuts) if over is None), default=len(shape) - 1)
    words = _two_words(key, (*shape[:axis], -(-shape[axis] // 4), *shape[axis + 1 :]), cut)
    halves = [half.astype(jnp.uint16) for word in words for half in (word, word >> 16)]
    draws = jax.lax.slice_in_dim(jnp.concatenate(halves, axis), 0, shape[axis], axis=axis)
    return checkpoint_name(draws >= dropped, DRAWS)


def _two_words(key: jax.Array, shape: tuple[int, ...], cut: NamedSharding) -> Sequence[jax.Array]:
    """Returns two arrays of random bits, which belong to places in the global array: the same on every mesh.

    jax.random.bits would give the exclusive or of threefry's two words.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        of_both = PartitionSpec(None, *cut.spec)
        return jnp.unstack(jax.random.bits(key, (2, *shape), jnp.uint32, out_sharding=of_both))

    def of_places(*key: jax.Array) -> Sequence[jax.Array]:
        row, *others = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(len(shape)))
        place = jnp.zeros(shape, jnp.uint32)  # in its row, of which no mask has 2**32
        for index, size in zip(others, shape[1:], strict=True):
            place = place * size + index
        return tuple(threefry2x32_p.bind(*(jnp.broadcast_to(part, shape) for part in key), row, place))

    return jax.sharding.auto_axes(of_places, out_sharding=(cut.spec, cut.spec))(*jax.random.key_data(key))


def kept_scale(rate: float) -> float:
    """Returns the factor of what dropout keeps, by which the mean stays: 1 over the share that it keeps."""
    return LEVELS / (LEVELS - _dropped(rate))


def _dropped(rate: float) -> int:
    return min(round(rate * LEVELS), LEVELS - 1)


def split(key: jax.Array | None, number: int) -> list[jax.Array | None]:
    """Returns `number` keys, or as many None: no key, no dropout."""
    return [None] * number if key is None else list(jax.random.split(key, number))

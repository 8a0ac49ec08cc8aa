"""What cuDNN computes, on a GPU that has it: `BERTJAX_TEST_PLATFORMS=cuda python -m pytest` with this file's name.

Everywhere else tests/model/test_kernels.py looks at what cuDNN would be asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import MeshConfig
from bertjax.model import kernels
from bertjax.model.attention import attention
from bertjax.sharding import make_mesh

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")

TOLERANCE = 0.02
"""Of the reference's largest number: bfloat16 keeps 8 bits, and the gradients are sums of many products."""


def spans(rows: list[list[int]], positions: int) -> jax.Array:
    """Returns spans_BS of rows that hold spans of these lengths, and then padding."""
    numbered = [np.repeat(np.arange(1, len(row) + 1), row) for row in rows]
    return jnp.array([np.pad(numbers, (0, positions - len(numbers))) for numbers in numbered], jnp.int32)


@pytest.mark.parametrize(
    "spans_BS",
    [
        spans([[128], [100], [1], []], 128),
        spans([[512], [300], [511]], 512),
        spans([[60, 40, 28], [128], [100, 20], []], 128),
        spans([[300, 212], [100, 100, 100, 100], [511, 1]], 512),
    ],
    ids=["128", "512", "packed-128", "packed-512"],
)
def test_cudnn_is_the_reference(spans_BS: jax.Array) -> None:
    most_spans = int(spans_BS.max())
    rng = np.random.default_rng(0)
    q, k, v, weights = (jnp.array(rng.normal(size=(*spans_BS.shape, 12, 64)), jnp.bfloat16) for _ in range(4))
    inside = (spans_BS > 0)[:, :, None, None]

    def averages_and_gradients(attend: Callable[..., jax.Array], dtype: jnp.dtype) -> list[np.ndarray]:
        def weighted(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
            o_BSHK = jnp.where(inside, attend(*qkv, spans_BS), 0).astype(jnp.float32)
            return jnp.sum(o_BSHK * weights), o_BSHK

        arrays = [x.astype(dtype) for x in (q, k, v)]
        (_, o_BSHK), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))(*arrays)
        return [np.asarray(x, np.float32) for x in (o_BSHK, *gradients)]

    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])), jax.default_matmul_precision("highest"):
        wanted = averages_and_gradients(functools.partial(attention, dropout=0.0, key=None), jnp.dtype("float32"))
        found = averages_and_gradients(
            functools.partial(kernels.attend, "cudnn", most_spans=most_spans), jnp.dtype("bfloat16")
        )
    for ours, theirs in zip(found, wanted, strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * np.abs(theirs).max())

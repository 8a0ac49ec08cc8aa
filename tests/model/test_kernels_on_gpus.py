"""What cuDNN computes, on a GPU that has it: `BERTJAX_TEST_PLATFORMS=cuda python -m pytest` with this file's name.

Everywhere else tests/model/test_kernels.py looks at what cuDNN would be asked for.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import MeshConfig
from bertjax.model import kernels
from bertjax.model.attention import attention
from bertjax.sharding import make_mesh
from tests.model.attending import averages_and_gradients, lengths_to_spans, random_inputs

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")

TOLERANCE = 0.02
"""Of the reference's largest number: bfloat16 keeps 8 bits, and the gradients are sums of many products."""


@pytest.mark.parametrize(
    "spans_BS",
    [
        lengths_to_spans([[128], [100], [1], []], 128),
        lengths_to_spans([[512], [300], [511]], 512),
        lengths_to_spans([[60, 40, 28], [128], [100, 20], []], 128),
        lengths_to_spans([[300, 212], [100, 100, 100, 100], [511, 1]], 512),
    ],
    ids=["128", "512", "packed-128", "packed-512"],
)
def test_cudnn_is_the_reference(spans_BS: jax.Array) -> None:
    inputs = random_inputs(spans_BS, jnp.bfloat16, head_width=64)
    wide = tuple(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in inputs)
    cudnn = functools.partial(kernels.attend, "cudnn", most_spans=int(spans_BS.max()))
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])), jax.default_matmul_precision("highest"):
        wanted = averages_and_gradients(functools.partial(attention, dropout=0.0, key=None), wide)
        found = averages_and_gradients(cudnn, inputs)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=TOLERANCE * np.abs(theirs).max())

"""What kernels compute, on a GPU that has them: `BERTJAX_TEST_PLATFORMS=cuda python -m pytest` with this file's name.

Everywhere else tests/model/test_kernels.py looks at what cuDNN would be asked for, and test_triton.py interprets.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import MeshConfig, ModelConfig
from bertjax.model import kernels
from bertjax.model.attention import attention
from bertjax.sharding import make_mesh
from tests.model.attending import averages_and_gradients, lengths_to_spans, random_inputs
from tests.model.norming import KEY, norm_inputs, sums_and_gradients

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="there is no GPU")

TOLERANCE = 0.02
"""Of the reference's largest number: bfloat16 keeps 8 bits, and the gradients are sums of many products."""


CALLS = {"cudnn": "__cudnn$fmha", "triton": "triton_kernel_call"}
ROWS = [
    pytest.param(lengths_to_spans([[128], [100], [1], []], 128), id="128"),
    pytest.param(lengths_to_spans([[512], [300], [511]], 512), id="512"),
    pytest.param(lengths_to_spans([[60, 40, 28], [128], [100, 20], []], 128), id="packed-128"),
    pytest.param(lengths_to_spans([[300, 212], [100, 100, 100, 100], [511, 1]], 512), id="packed-512"),
    pytest.param(lengths_to_spans([[192], [60, 100], []], 192), id="192"),
    pytest.param(lengths_to_spans([[48], [40], [11, 20]], 48), id="48"),
]


def assert_close(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert np.isfinite(ours.astype(jnp.float32)).all()
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, atol=TOLERANCE * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("kernel", "rate", "key"), [("cudnn", 0.0, KEY), ("triton", 0.0, KEY), ("triton", 0.1, KEY), ("triton", 0.1, None)]
)
@pytest.mark.parametrize("spans_BS", ROWS)
def test_a_kernel_is_the_reference(
    spans_BS: jax.Array, kernel: kernels.Kernel, rate: float, key: jax.Array | None
) -> None:
    if kernel == "triton":
        pytest.importorskip("jax_triton")
    inputs = random_inputs(spans_BS, jnp.bfloat16, head_width=64)
    wide = tuple(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x for x in inputs)
    how: dict[str, Any] = {"dropout": rate, "key": key, "most_spans": int(spans_BS.max())}
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])), jax.default_matmul_precision("highest"):
        wanted = averages_and_gradients(functools.partial(attention, kernel="xla", **how), wide)
        attend = functools.partial(attention, kernel=kernel, **how)
        assert CALLS[kernel] in jax.jit(attend).lower(*inputs[:4]).as_text()
        assert_close(averages_and_gradients(attend, inputs), wanted)


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("width", [768, 1024])
def test_the_norm_of_a_sum_is_the_reference(width: int, rate: float) -> None:
    pytest.importorskip("jax_triton")
    c = ModelConfig(width=width, heads=width // 64, dropout=rate)
    x_BSD, y_BSD, *params_D, weights_BSD = norm_inputs(4, 100, width)
    inputs = (x_BSD.astype(jnp.bfloat16), y_BSD.astype(jnp.bfloat16), *params_D, weights_BSD)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        wanted = sums_and_gradients(c, tuple(x.astype(jnp.float32) for x in inputs))
        by_kernel = dataclasses.replace(c, norm="triton")
        assert CALLS["triton"] in jax.jit(functools.partial(sums_and_gradients, by_kernel)).lower(inputs).as_text()
        assert_close(sums_and_gradients(by_kernel, inputs), wanted)

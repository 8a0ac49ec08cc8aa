"""What XLA makes for TPUs of parts of the step: seen in what it compiles, for chips that need not be there."""

from __future__ import annotations

import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import pytest

from bertjax.config import OptimizerConfig
from bertjax.planning import hardware
from bertjax.training import losses, optimizers

ROWS, PREDICTED, WIDTH, ENTRIES = 64, 80, 128, 30592  # more than the memory on the chip that XLA may put arrays into


@pytest.fixture(scope="module")
def chip() -> jax.Device:
    pytest.importorskip("libtpu")
    return hardware.devices(hardware.find_topology("v5e:2x2"))[0]


def on(chip: jax.Device, tree: Any) -> Any:
    place = jax.sharding.SingleDeviceSharding(chip)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def test_the_loss_makes_no_float32_copy_of_the_logits(chip: jax.Device) -> None:
    """In bfloat16 they are all that its forward pass keeps for its backward pass."""

    def loss(x_BMD: jax.Array, kernel_DV: jax.Array, labels_BM: jax.Array, weights_BM: jax.Array) -> jax.Array:
        return losses.objective(losses.cross_entropy_sums(x_BMD @ kernel_DV, labels_BM, weights_BM, ""))

    arguments = (
        jax.ShapeDtypeStruct((ROWS, PREDICTED, WIDTH), jnp.bfloat16),
        jax.ShapeDtypeStruct((WIDTH, ENTRIES), jnp.bfloat16),
        jax.ShapeDtypeStruct((ROWS, PREDICTED), jnp.int32),
        jax.ShapeDtypeStruct((ROWS, PREDICTED), jnp.float32),
    )
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).trace(*on(chip, arguments)).lower().compile()
    logits = ROWS * PREDICTED * ENTRIES * jnp.dtype(jnp.bfloat16).itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < 1.2 * logits


@pytest.mark.parametrize(("kind", "passes"), [("adamw", 1), ("lamb", 2)])
def test_a_weights_update_is_one_computation_in_its_own_memory(
    chip: jax.Device, kind: Literal["adamw", "lamb"], passes: int
) -> None:
    """Moments, decay, rate and sum; LAMB has to know the norm of all that before it scales it."""
    c = OptimizerConfig(kind=kind)
    optimizer = optimizers.make_optimizer(c, optimizers.learning_rate(c, 100))
    params = on(chip, {"kernel": jax.ShapeDtypeStruct((1024, 2048), jnp.float32)})
    state = on(chip, jax.eval_shape(optimizer.init, params))

    def update(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1)).trace(params, state, params).lower().compile()
    entry = compiled.as_text().partition("ENTRY")[2]
    made = re.findall(r"= ([^=]*f32\[1024,2048\][^=]*) fusion\(", entry)
    assert len(made) == passes
    memory, held = compiled.memory_analysis(), 3 * 4 * 1024 * 2048
    assert memory.alias_size_in_bytes >= held

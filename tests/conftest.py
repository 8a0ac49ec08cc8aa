"""Every test runs on eight virtual CPU devices, so that meshes are real ones, and without broadcasting over ranks."""

from __future__ import annotations

import jax

# Before anything asks for devices: afterwards the number is fixed.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
# `x_BSD + bias_D` is easily a mistake for `x_BSD + bias_S`: shapes are lined up in writing.
jax.config.update("jax_numpy_rank_promotion", "raise")

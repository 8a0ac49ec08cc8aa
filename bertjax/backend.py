"""What has to be set before jax starts its backend. Call `start` first."""

from __future__ import annotations

import logging

import jax

from bertjax import cache


def start() -> None:
    """Turns the persistent compilation cache on, so that the second start of a run does not compile."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Orbax logs what it also raises, with tracebacks; what a user must know of it, bertjax says in a line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)

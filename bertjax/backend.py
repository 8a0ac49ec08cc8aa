"""What has to be set before jax starts its backend. Call `start` first."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_directory() -> Path:
    """Returns where things that can be made again are kept: $BERTJAX_CACHE, or ~/.cache/bertjax."""
    return Path(os.environ.get("BERTJAX_CACHE") or Path.home() / ".cache" / "bertjax")


def start() -> None:
    """Turns the persistent compilation cache on, so that the second start of a run does not compile."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
        jax.config.update("jax_persistent_compilation_cache_min_compile_time_secs", 0.5)

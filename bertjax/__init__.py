"""bertjax pretrains BERT-family encoders from your own text in JAX, fine-tunes them, and hands them on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bertjax.streaming import stream

if TYPE_CHECKING:
    from bertjax.config import MeshConfig
    from bertjax.inference import Model

__version__ = "0.1.0"
__all__ = ["load", "stream"]


def load(path: str | Path, *, step: int | None = None, mesh: MeshConfig | None = None) -> Model:
    """Returns the model of a run's folder, as `bertjax.inference.load`, which this imports on the first call."""
    from bertjax import inference  # with jax: half a second that `import bertjax` and the command line do without

    return inference.load(path, step=step, mesh=mesh)

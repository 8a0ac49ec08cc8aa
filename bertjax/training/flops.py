"""The one formula for arithmetic, used for every MFU that is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bertjax.config import ModelConfig


class Flops(NamedTuple):
    """FLOPs a real token, forward and backward, matrix products only, nothing recomputed."""

    body: float
    """The blocks' products with weights."""
    attention: float
    """Positions with positions."""
    head: float
    """The masked-LM head."""


def flops_per_token(c: ModelConfig, vocab_size: int, batch: Mapping[str, np.ndarray]) -> float:
    """Returns the sum of `flops_by_part`."""
    return sum(flops_by_part(c, vocab_size, batch))


def flops_by_part(c: ModelConfig, vocab_size: int, batch: Mapping[str, np.ndarray]) -> Flops:
    """Returns FLOPs a real token.

    72 L D^2 for the blocks (with F = 4 D; 24 L D^2 + 12 L D F in general, 18 L D F in ModernBERT's gated layer),
    12 L D s for attention, 6 f (D^2 + D V) for the masked-LM head. s = sum(length^2) / sum(length) over the pairs, also
    where attention is local, and f, predictions a token, are `batch`'s.
    """
    _, length = np.unique(
        (batch["spans"] + np.arange(len(batch["spans"]))[:, None] * (batch["spans"].max() + 1))[batch["spans"] > 0],
        return_counts=True,
    )
    predicted = float(batch["weights"].sum() / length.sum()) if "predict" in batch else 0.0
    return Flops(*encoder_flops(c, length), 6 * predicted * (c.width**2 + c.width * vocab_size))


def encoder_flops(c: ModelConfig, length: np.ndarray) -> tuple[float, float]:
    """Returns FLOPs a token of the blocks' products with weights, and of attention, for texts of so many tokens."""
    attended = float((length**2).sum() / length.sum())
    mlp_matrices = 3 if c.family == "modernbert" else 2
    body = c.layers * (24 * c.width**2 + 6 * mlp_matrices * c.width * c.mlp_width)
    return body, 12 * c.layers * c.width * attended

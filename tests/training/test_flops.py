"""The FLOPs formula at the values that are known for BERT."""

from __future__ import annotations

import numpy as np
import pytest

from bertjax.config import ModelConfig
from bertjax.training.flops import flops_per_token


def batch(length: int, rows: int = 4, predicted: float = 0.15) -> dict[str, np.ndarray]:
    spans = np.ones((rows, length), np.int32)
    weights = np.zeros((rows, length), np.float32)
    weights[:, : round(predicted * length)] = 1
    return {"spans": spans, "weights": weights, "predict": np.zeros_like(spans)}


@pytest.mark.parametrize(("length", "mega_flops"), [(128, 546), (512, 588)])
def test_base_is_what_the_formula_gives(length: int, mega_flops: float) -> None:
    """Base: 72 x 12 x 768^2 for the blocks, 12 x 12 x 768 x S for attention, 0.9 (768^2 + 768 x 30522) for the head."""
    assert flops_per_token(ModelConfig(), 30522, batch(length)) / 1e6 == pytest.approx(mega_flops, rel=5e-3)


def test_attention_counts_spans_and_not_rows() -> None:
    packed = batch(128)
    packed["spans"][:, 64:] = 2
    c = ModelConfig()
    saved = flops_per_token(c, 30522, batch(128)) - flops_per_token(c, 30522, packed)
    assert saved == pytest.approx(12 * c.layers * c.width * 64)


def test_padding_is_not_counted() -> None:
    padded = batch(64)
    for name in padded:
        padded[name] = np.pad(padded[name], ((0, 0), (0, 64)))
    assert flops_per_token(ModelConfig(), 30522, padded) == flops_per_token(ModelConfig(), 30522, batch(64))


def test_a_gated_layer_has_a_third_matrix() -> None:
    gated = ModelConfig(family="modernbert")
    more = flops_per_token(gated, 30522, batch(128)) - flops_per_token(ModelConfig(), 30522, batch(128))
    assert more == 6 * 12 * 768 * 3072

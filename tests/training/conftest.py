"""A tiny model and a batch with all that is uneven about real ones: padding, packed pairs, few predictions."""

from __future__ import annotations

import numpy as np
import pytest

from bertjax.config import ModelConfig

BATCH, SEQ_LEN, PREDICTIONS, PAIRS = 8, 16, 4, 2


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(vocab_size=100, width=32, layers=2, heads=8, mlp_width=64, max_positions=SEQ_LEN)


@pytest.fixture
def batch() -> dict[str, np.ndarray]:
    return uneven_batch(0, BATCH)


def uneven_batch(seed: int, rows: int) -> dict[str, np.ndarray]:
    """Returns a batch with padding, packed pairs, and more predictions the further down the row."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, SEQ_LEN + 1, rows)
    column = np.arange(SEQ_LEN)[None]
    spans = np.where(column < lengths[:, None], 1 + (column >= 4), 0)
    return {
        "ids": rng.integers(5, 100, (rows, SEQ_LEN)).astype(np.int32),
        "segments": rng.integers(0, 2, (rows, SEQ_LEN)).astype(np.int32),
        "positions": np.where(spans == 2, column - 4, column).astype(np.int32),
        "spans": spans.astype(np.int32),
        "predict": rng.integers(0, 5, (rows, PREDICTIONS)).astype(np.int32),
        "labels": rng.integers(5, 100, (rows, PREDICTIONS)).astype(np.int32),
        "weights": (rng.random((rows, PREDICTIONS)) < np.linspace(0.1, 1, rows)[:, None]).astype(np.float32),
        "cls": np.tile(np.array([[0, 4]], np.int32), (rows, 1)),
        "next": rng.integers(0, 2, (rows, PAIRS)).astype(np.int32),
        "next_weights": np.tile(np.array([[1, 1]], np.float32), (rows, 1)),
    }

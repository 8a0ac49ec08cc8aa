"""The small BERT that golden values were made of, and its rows: with segments, padding, and predicted positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).with_name("bert.safetensors")

CONFIG: dict[str, Any] = {
    "vocab_size": 70,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 14,
    "type_vocab_size": 2,
    "initializer_range": 0.2,
}
"""In Hugging Face's words."""

LENGTHS = (12, 7, 9)  # of the rows; the rest is padding
PREDICT_BM = np.array([[2, 5, 10], [1, 4, 0], [7, 0, 0]], np.int32)
PREDICTED_BM = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)  # the others only fill the array


def make_batch(vocab_size: int) -> dict[str, np.ndarray]:
    """Returns ids, segments, spans [B, S], labels [B, S] (-100 where nothing is predicted) and next [B]."""
    places = np.arange(max(LENGTHS))
    lengths = np.array(LENGTHS)[:, None]
    ids_BS = (places * 31 + lengths * 17) % vocab_size
    labels_BS = np.full(ids_BS.shape, -100)
    for row, position in zip(*np.nonzero(PREDICTED_BM), strict=True):
        labels_BS[row, PREDICT_BM[row, position]] = (position * 29 + row * 13) % vocab_size
    batch = {
        "ids": np.where(places < lengths, ids_BS, 0),
        "segments": (places >= lengths // 2) & (places < lengths),
        "spans": places < lengths,
        "labels": labels_BS,
        "next": np.array([0, 1, 1]),
    }
    return {name: value.astype(np.int32) for name, value in batch.items()}

"""What finetune.py asks of a task. Each kind is a module with a function `make_task` that returns one of these.

Shape letters: B batch (rows), N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig, Pooling
from bertjax.tasks.batches import Features
from bertjax.training.step import Batch, Loss

Outputs = Sequence[np.ndarray]
"""What the model says of each example, in the order of the file."""


class Part(NamedTuple):
    """A file of examples, as written and as the model reads it."""

    examples: Sequence[Any]
    features: Features


@dataclasses.dataclass(frozen=True)
class Task:
    """What there is to learn, from which files, and what is done with what was learned."""

    labels: tuple[str, ...]
    """In the order of the model's outputs."""
    metrics: tuple[str, ...]
    """Figures of which the highest is the best; the first chooses the checkpoint unless the config names another."""
    parts: Mapping[str, Part]
    """`train`, `validation`, `test` if there is one, and the further files to evaluate, by the name of the file."""
    baselines: Mapping[str, float]
    """Figures of the validation file that a model has to beat."""
    make_model: Callable[[ModelConfig, Pooling, nnx.Rngs], nnx.Module]
    """Returns the encoder under a new head."""
    loss: Loss
    outputs: Callable[[Any, Batch], jax.Array]
    """Returns what the model says of each row of a batch, [B, ...]."""
    figures: Callable[[Part, Outputs], dict[str, float]]
    """Returns the figures of a labelled file, `loss` and the metrics among them."""
    write: Callable[[Path, Part, Outputs], Path]
    """Writes a file's predictions as a table that starts with the columns index and prediction."""

"""What finetune.py asks of a task. Each kind is a module with a function `make_task` that returns one of these.

Shape letters: B batch (rows), N examples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig, Pooling, TaskDataConfig
from bertjax.data.documents import TFDS
from bertjax.errors import UserError
from bertjax.tasks.batches import Features
from bertjax.training.step import Batch, Loss

T = TypeVar("T")
Outputs = Sequence[np.ndarray]
"""What the model says of each of a file's rows: of its examples, or of the windows over them, in order."""
Chosen = Mapping[str, float]
"""What the validation file chose beside the checkpoint, by name, such as SQuAD 2.0's threshold."""


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
    figures: Callable[[Part, Outputs, Chosen], dict[str, float]]
    """Returns the figures of a labelled file, `loss` and the metrics among them."""
    write: Callable[[Path, Part, Outputs, Chosen], Path]
    """Writes a file's predictions at a path without suffix, adds its own, and returns the path."""
    choose: Callable[[Part, Outputs], Chosen] = lambda *_: {}
    """Returns what the validation file chooses."""


def files_of(data: TaskDataConfig) -> dict[str, str]:
    """Returns the files of a task by their names: `train`, `validation`, `test` if there is one, the further ones.

    A TFDS data set stands for its split of that name, unless it says which: `tfds:glue/mnli#validation_matched`.

    Raises: UserError if one is missing, or two would have one name.
    """
    if not data.train or not data.validation:
        raise UserError(f"data.{'train' if not data.train else 'validation'} is not set; name the file of examples")
    files = {"train": data.train, "validation": data.validation} | ({"test": data.test} if data.test else {})
    for path in data.also:
        name = path.rpartition("#")[-1] if path.startswith(TFDS) else Path(path).name.split(".")[0]
        if name in files or name == "test":
            raise UserError(f"data.also: {path} is called {name!r}, as one of the task's other files is; rename it")
        files[name] = path
    return {name: f"{path}#{name}" if _lacks_split(path) else path for name, path in files.items()}


def row_length(data: TaskDataConfig) -> int:
    """Returns the most tokens of a row: those of an example, where choices are read side by side of all of them."""
    return data.seq_len * max(1, len(data.choices))


def _lacks_split(path: str) -> bool:
    return path.startswith(TFDS) and "#" not in path


def drawn(examples: Sequence[T], most: int | None, seed: int) -> list[T]:
    """Returns at most so many of the examples, drawn by the seed, in the order of the file; None takes all."""
    if most is None or most >= len(examples):
        return list(examples)
    chosen = np.random.default_rng(seed).permutation(len(examples))[:most]
    return [examples[i] for i in sorted(chosen)]

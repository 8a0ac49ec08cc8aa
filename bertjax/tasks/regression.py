"""Regression: a number for a text or a pair of texts, as STS-B's similarity.

Shape letters: B batch (rows), N examples.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig, Pooling, TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.sharding import REPLICATED
from bertjax.tasks import classification, text_examples
from bertjax.tasks.batches import Features
from bertjax.tasks.classification import SequenceClassifier
from bertjax.tasks.metrics import regression_metrics
from bertjax.tasks.tables import Row
from bertjax.tasks.task import Task, drawn, files_of
from bertjax.tasks.text_examples import Columns, Example
from bertjax.training.losses import Sums

LABELS = ("score",)


def make_task(data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Task:
    """Returns the task of giving texts the scores of the training file, from whose mean the head's bias starts.

    Raises: UserError, with file and line, for what is wrong in a file, or if classes are asked for.
    """
    if data.examples_per_class is not None:
        raise UserError(f"data.examples_per_class={data.examples_per_class}, but scores are no classes; leave it out")

    lowest = -math.inf

    def read(path: str, columns: Columns, *, label_required: bool) -> list[Example]:
        check = functools.partial(check_score, lowest=lowest)
        return text_examples.read_examples(path, columns, check, label_required=label_required)

    labelled = read(files_of(data)["train"], text_examples.columns_of(data), label_required=True)
    lowest = min(float(example.label or 0) for example in labelled)
    train = drawn(labelled, data.examples, seed)
    parts = text_examples.make_parts(data, train, read, lambda found: features(found, tokenizer, data.seq_len))
    mean_score = float(parts["train"].features.targets["scores"].mean())

    def make_model(c: ModelConfig, pooling: Pooling, rngs: nnx.Rngs) -> SequenceClassifier:
        model = SequenceClassifier(c, 1, pooling=pooling, rngs=rngs)
        model.classifier.bias = nnx.Param(jnp.full(1, mean_score), out_sharding=REPLICATED)
        return model

    scores_N = parts["validation"].features.targets["scores"]
    return Task(
        labels=LABELS,
        metrics=("spearman", "pearson"),
        parts=parts,
        baselines={"mean_score_loss": float(np.mean((scores_N - mean_score) ** 2))},
        make_model=make_model,
        loss=regression_loss,
        outputs=scores,
        figures=lambda part, outputs, _: _figures(part.features.targets["scores"], np.stack(outputs)),
        write=lambda path, part, outputs, _: write_predictions(
            path.with_suffix(".tsv"), part.examples, np.stack(outputs)
        ),
    )


def check_score(value: Any, row: Row, *, required: bool, lowest: float = -math.inf) -> str | None:
    """Returns the score as it is written.

    Raises: UserError if it is no finite number, or, where none is required, -1 below the `lowest` of 0 or more: so
    TFDS and Hugging Face write one that is not known.
    """
    score = "" if value is None else str(value).strip()
    if not score and not required:
        return None
    try:
        finite = not isinstance(value, bool) and math.isfinite(float(score))
    except ValueError:
        finite = False
    if not finite:
        raise UserError(f"{row.where}: {value!r} is not a score; use a finite number")
    if not required and float(score) == -1 and lowest >= 0:
        raise UserError(f"{row.where}: a score of {score}, where no training example has one below {lowest:g}")
    return score


def features(examples: Sequence[Example], tokenizer: text_examples.Tokenizer, seq_len: int) -> Features:
    """Returns the features of classification with `scores`, 0 where unknown."""
    unlabelled = [dataclasses.replace(example, label=None) for example in examples]
    made = text_examples.features(unlabelled, tokenizer, seq_len, ())
    scores_N = np.array([float(example.label or 0) for example in examples], np.float32)
    return Features(made.ids, made.segments, {"scores": scores_N}, made.pad_id, made.truncated)


def scores(model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns scores_B."""
    return classification.logits(model, batch, key)[:, 0].astype(jnp.float32)


def regression_loss(model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the squared error of the rows that have weight."""
    error_B = scores(model, batch, key) - batch["scores"]
    return {"loss": (jnp.sum(error_B**2 * batch["weights"]), jnp.sum(batch["weights"]))}


def _figures(scores_N: np.ndarray, predictions_N: np.ndarray) -> dict[str, float]:
    loss = float(np.mean((scores_N.astype(np.float64) - predictions_N) ** 2))
    return {"loss": loss} | regression_metrics(scores_N, predictions_N)


def write_predictions(path: str | Path, examples: Sequence[Example], scores_N: np.ndarray) -> Path:
    """Writes a .tsv of index, prediction, and label if it is known; returns its path."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "prediction", "label"])
        table.writerows(
            [example.index, f"{score:.3f}", example.label or ""]
            for example, score in zip(examples, scores_N, strict=True)
        )
    return path

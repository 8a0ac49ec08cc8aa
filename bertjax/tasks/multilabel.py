"""Multi-label classification: of several classes a text has any number. Files and features of text_examples.

Shape letters: B batch (rows), N examples, C classes.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are imported where they are used, which takes a while

from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.tasks import classification, text_examples
from bertjax.tasks.batches import Features
from bertjax.tasks.classification import SequenceClassifier
from bertjax.tasks.metrics import multilabel_metrics
from bertjax.tasks.tables import Row
from bertjax.tasks.task import Task, drawn, files_of
from bertjax.tasks.text_examples import Columns, Example
from bertjax.training.losses import Sums

SEPARATOR = "|"


def make_task(data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Task:
    """Returns the task of telling which of the training file's labels a text has.

    Raises: UserError, with file and line, for what is wrong in a file, or if classes are to be drawn evenly.
    """
    if data.examples_per_class is not None:
        raise UserError(
            f"data.examples_per_class={data.examples_per_class}, but a text may be of several classes; use"
            " --data.examples"
        )
    labels: tuple[str, ...] = ()

    def read(path: str, columns: Columns, *, label_required: bool) -> list[Example]:
        check = functools.partial(check_labels, labels=labels or None)
        return text_examples.read_examples(path, columns, check, label_required=label_required)

    labelled = read(files_of(data)["train"], text_examples.columns_of(data), label_required=True)
    train = drawn(labelled, data.examples, seed)
    labels = tuple(sorted({label for example in labelled for label in labels_of(example)}))
    if not labels:
        raise UserError(f"no example of {data.train} has a label; there is nothing to learn")
    parts = text_examples.make_parts(data, train, read, lambda found: features(found, tokenizer, data.seq_len, labels))
    held_out_NC = parts["validation"].features.targets["labels"]
    text_examples.say_absent(
        data.validation, {label for label, share in zip(labels, held_out_NC.max(0), strict=True) if share <= 0}
    )
    common_C = parts["train"].features.targets["labels"].mean(0) > 0.5
    return Task(
        labels=labels,
        metrics=("f1", "f1_macro", "exact"),
        parts=parts,
        baselines={"common_f1": multilabel_metrics(held_out_NC > 0, np.tile(common_C, (len(held_out_NC), 1)))["f1"]},
        make_model=lambda c, pooling, rngs: SequenceClassifier(c, len(labels), pooling=pooling, rngs=rngs),
        loss=multilabel_loss,
        outputs=classification.logits,
        figures=lambda part, outputs, _: _figures(part.features.targets["labels"], np.stack(outputs)),
        write=lambda path, part, outputs, _: write_predictions(
            path.with_suffix(".tsv"), part.examples, np.stack(outputs), labels
        ),
    )


def check_labels(value: Any, row: Row, *, required: bool, labels: Sequence[str] | None = None) -> str | None:
    """Returns the labels, sorted, between bars; in JSON they may be a list. "" is a text that has none.

    Raises: UserError if it is neither, or one is not among `labels`, where those are given.
    """
    if value is None and not required:
        return None
    listed = value.split(SEPARATOR) if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(one, str) and SEPARATOR not in one for one in listed):
        raise UserError(
            f"{row.where}: {value!r} are no labels; part them by {SEPARATOR!r}, or make them a list in JSON"
        )
    found = sorted({one.strip() for one in listed} - {""})
    for label in found:
        if labels is not None and label not in labels:
            raise UserError(f"{row.where}: unknown label {label!r}; known are {', '.join(map(repr, labels))}")
    return SEPARATOR.join(found)


def labels_of(example: Example) -> list[str]:
    """Returns the labels of an example; none where they are not known."""
    return example.label.split(SEPARATOR) if example.label else []


def features(
    examples: Sequence[Example], tokenizer: text_examples.Tokenizer, seq_len: int, labels: Sequence[str]
) -> Features:
    """Returns the features of classification, `labels` [N, C] 1 where an example has the label, otherwise 0."""
    unlabelled = [dataclasses.replace(example, label=None) for example in examples]
    made = text_examples.features(unlabelled, tokenizer, seq_len, ())
    has_NC = [[float(label in labels_of(example)) for label in labels] for example in examples]
    return dataclasses.replace(made, targets={"labels": np.array(has_NC, np.float32)})


def multilabel_loss(model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the binary cross entropy (nats), its mean over the classes, of the rows that have weight."""
    logits_BC = classification.logits(model, batch, key).astype(jnp.float32)
    loss_BC = jax.nn.softplus(logits_BC) - logits_BC * batch["labels"]
    return {"loss": (jnp.sum(loss_BC.mean(axis=1) * batch["weights"]), jnp.sum(batch["weights"]))}


def _figures(labels_NC: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
    wide_NC = logits_NC.astype(np.float64)
    loss = float(np.mean(np.logaddexp(0, wide_NC) - wide_NC * labels_NC))
    return {"loss": loss} | multilabel_metrics(labels_NC > 0, wide_NC > 0)


def write_predictions(
    path: str | Path, examples: Sequence[Example], logits_NC: np.ndarray, labels: Sequence[str]
) -> Path:
    """Writes a .tsv of index, prediction, label if it is known, and the probability of each; returns its path."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "prediction", "label", *(f"probability_{name}" for name in labels)])
        for example, p_C in zip(examples, scipy.special.expit(logits_NC.astype(np.float64)), strict=True):
            predicted = SEPARATOR.join(label for label, p in zip(labels, p_C, strict=True) if p > 0.5)
            table.writerow([example.index, predicted, example.label or "", *(f"{p:.6f}" for p in p_C)])
    return path

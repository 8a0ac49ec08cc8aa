"""Classification of sentences and pairs of sentences: labels, head, loss, figures, predictions.

Shape letters: B batch (rows), S position, D width, C classes, N examples.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from bertjax import hosts
from bertjax.config import ModelConfig, Pooling, TaskDataConfig
from bertjax.data.tokenizer import Tokenizer as BertTokenizer
from bertjax.errors import UserError
from bertjax.model import layers
from bertjax.model.assembly import Assembly, Blueprint, classifier_heads
from bertjax.model.heads import mean_over_span, means_of_layers
from bertjax.sharding import ACT_B
from bertjax.tasks.bag_of_words import bag_of_words_baseline
from bertjax.tasks.batches import Features
from bertjax.tasks.metrics import classification_metrics, majority_baseline
from bertjax.tasks.task import Task, drawn, files_of
from bertjax.tasks.text_examples import (
    Columns,
    Example,
    check_label,
    columns_of,
    features,
    few_of_each,
    make_parts,
    read_examples,
    say_absent,
)
from bertjax.training.losses import Sums, cross_entropy_sums

GLUE_LABELS: dict[str, tuple[str, ...]] = (
    dict.fromkeys(("CoLA", "SST-2", "MRPC", "QQP", "WNLI"), ("0", "1"))
    | dict.fromkeys(("RTE", "QNLI"), ("entailment", "not_entailment"))
    | dict.fromkeys(("MNLI-m", "MNLI-mm", "AX"), ("contradiction", "entailment", "neutral"))
)
"""What GLUE's server takes, by the name of the file that is handed in."""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")


def make_task(data: TaskDataConfig, tokenizer: BertTokenizer, seed: int) -> Task:
    """Returns the task of telling the classes of the training file apart.

    Raises: UserError, with file and line, for what is wrong in a file.
    """
    labels: tuple[str, ...] = ()

    def read(path: str, columns: Columns, *, label_required: bool) -> list[Example]:
        check = functools.partial(check_label, labels=labels or None)
        return read_examples(path, columns, check, label_required=label_required)

    labelled = read(files_of(data)["train"], columns_of(data), label_required=True)
    labels = label_names(labelled, data.positive)
    train = drawn(few_of_each(labelled, data, seed), data.examples, seed)
    _say_unfit(data.submission if data.test else None, labels)
    parts = make_parts(data, train, read, lambda examples: features(examples, tokenizer, data.seq_len, labels))
    say_absent(data.validation, set(labels) - {example.label for example in parts["validation"].examples})
    return Task(
        labels=labels,
        metrics=("accuracy", "f1", "f1_macro", "matthews", "precision", "recall"),
        parts=parts,
        baselines=_baselines(parts["train"].features, parts["validation"].features, len(labels), tokenizer.vocab_size),
        make_model=lambda c, pooling, rngs: SequenceClassifier(c, len(labels), pooling=pooling, rngs=rngs),
        loss=classification_loss,
        outputs=logits,
        figures=lambda part, outputs, _: _figures(part.features.targets["labels"], np.stack(outputs)),
        write=lambda path, part, outputs, _: write_predictions(
            path.with_suffix(".tsv"), part.examples, np.exp(log_softmax(np.stack(outputs))), labels
        ),
    )


def label_names(examples: Sequence[Example], positive: str | None = None) -> tuple[str, ...]:
    """Returns the labels that occur, numbers in the order of numbers, else sorted; `positive` is the last of two.

    Raises: UserError if there are fewer than two, or `positive` is not one of two.
    """
    names = {example.label for example in examples if example.label is not None}
    if len(names) < 2:
        raise UserError(f"the training file has {len(names)} label: {sorted(names)}; telling apart needs two")
    ordered = sorted(names, key=_sort_key)
    if positive is not None and (len(names) > 2 or positive not in names):
        raise UserError(
            f"data.positive={positive!r} is not one of two labels; there are {', '.join(map(repr, ordered))}"
        )
    return tuple(ordered) if positive is None else (*(names - {positive}), positive)


def _sort_key(name: str) -> tuple[float, str]:
    return (float(name) if _NUMBER.fullmatch(name) else float("inf")), name


def _say_unfit(submission: str | None, labels: Sequence[str]) -> None:
    """Prints that GLUE's server will not take the predictions, where the labels are others, as TFDS has some."""
    taken = GLUE_LABELS.get(submission or "")
    if taken and set(labels) != set(taken):
        hosts.say(
            f"glue/{submission}.tsv will be none that GLUE's server takes: its labels are {', '.join(taken)}, these"
            f" {', '.join(map(repr, labels))}; to hand in, use GLUE's own files"
        )


class SequenceClassifier(Assembly):
    """The encoder, a vector of the whole text, dropout, and a dense layer to the classes.

    That vector is the pooler's over [CLS] (Devlin et al. 2019, section 4.1; google-research/bert, run_classifier.py,
    create_model), the mean of the last hidden states, by equal or by learned weights, or the means of all layers'.
    ModernBERT has no pooler, but a dense layer, GELU and LayerNorm over any vector of the last layer's (Warner et al.
    2024's code).
    """

    def __init__(self, c: ModelConfig, n_classes: int, *, pooling: Pooling = "cls", rngs: nnx.Rngs):
        heads, labels = classifier_heads(c, "classification", pooling), tuple(map(str, range(n_classes)))
        super().__init__(Blueprint(c, heads, "classification", labels, pooling), rngs=rngs)
        self.pooling = pooling
        self.c = c

    def __call__(
        self,
        ids_BS: jax.Array,
        segments_BS: jax.Array,
        positions_BS: jax.Array,
        spans_BS: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Returns logits_BC; dropout is on exactly when `key` is given."""
        encoder_key, head_key = layers.split(key, 2)
        rows, all_layers = (ids_BS, segments_BS, positions_BS, spans_BS), self.pooling == "layers"
        hidden = self.encoder(*rows, key=encoder_key, all_layers=all_layers, most_spans=1)
        pooled_BD = layers.dropout(self._pooled(hidden, spans_BS), self.c.dropout, head_key)
        return self.classifier(pooled_BD, out_sharding=ACT_B)

    def _pooled(self, x_BSD: jax.Array, spans_BS: jax.Array) -> jax.Array:
        if self.pooling == "layers":
            return means_of_layers(x_BSD, spans_BS)
        if hasattr(self, "pooler"):
            return self.pooler(x_BSD[:, 0])
        if hasattr(self, "weighted"):
            x_BD = self.weighted(x_BSD, spans_BS)
        else:
            x_BD = x_BSD[:, 0] if self.pooling == "cls" else mean_over_span(x_BSD, spans_BS)
        return self.transform(x_BD) if hasattr(self, "transform") else x_BD


def classification_loss(model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the cross entropy (nats) and the accuracy of the rows that have weight."""
    return cross_entropy_sums(logits(model, batch, key), batch["labels"], batch["weights"], "")


def logits(model: SequenceClassifier, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns logits_BC of a batch of tasks/batches.py."""
    return model(batch["ids"], batch["segments"], batch["positions"], batch["spans"], key=key)


def _figures(labels_N: np.ndarray, logits_NC: np.ndarray) -> dict[str, float]:
    """Returns the loss (nats) and the figures of the likeliest labels."""
    loss = -float(np.take_along_axis(log_softmax(logits_NC), labels_N[:, None], axis=1).mean())
    return {"loss": loss} | classification_metrics(labels_N, logits_NC.argmax(axis=1), logits_NC.shape[1])


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Returns the logarithms of the probabilities, float64."""
    wide_NC = logits_NC.astype(np.float64)
    return wide_NC - np.logaddexp.reduce(wide_NC, axis=1, keepdims=True)


def _baselines(train: Features, held_out: Features, n_classes: int, vocab_size: int) -> dict[str, float]:
    """Returns the accuracies of always guessing the most frequent label, and of counting tokens."""
    train_labels_N, labels_N = train.targets["labels"], held_out.targets["labels"]
    counted = bag_of_words_baseline(train.ids, train_labels_N, held_out.ids, labels_N, n_classes, vocab_size)
    return {"majority_accuracy": majority_baseline(train_labels_N, labels_N), "bag_of_words_accuracy": counted}


def write_predictions(
    path: str | Path, examples: Sequence[Example], probabilities_NC: np.ndarray, labels: Sequence[str]
) -> Path:
    """Writes a .tsv of index, prediction, label if it is known, and the probability of each class; returns its path."""
    path = Path(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["index", "prediction", "label", *(f"probability_{name}" for name in labels)])
        for example, p_C in zip(examples, probabilities_NC, strict=True):
            shown = [f"{p:.6f}" for p in p_C]
            table.writerow([example.index, labels[int(p_C.argmax())], example.label or "", *shown])
    return path

"""Multiple choice (SWAG): of several ways to go on, which is the right one? Each is read with the text as a pair.

The choices of an example stand in one row, one span each, so that none sees another and positions restart: a batch has
whole examples, and the softmax is over the choices of a row.
Shape letters: B batch (rows), S position, D width, K choices, N examples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from bertjax import hosts
from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model import layers
from bertjax.model.assembly import Assembly, Blueprint, classifier_heads
from bertjax.model.pretraining import gather
from bertjax.tasks import classification, text_examples
from bertjax.tasks.batches import Features
from bertjax.tasks.metrics import majority_baseline
from bertjax.tasks.tables import read_rows
from bertjax.tasks.task import Part, Task, drawn, files_of
from bertjax.training.losses import Sums, cross_entropy_sums

LABELS = ("score",)
"""What the head gives each choice."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A text, the ways to go on, and the number of the right one, None where it is not known."""

    text: str
    choices: tuple[str, ...]
    label: str | None
    index: int
    """Row of the file, from 0."""


def make_task(data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Task:
    """Returns the task of choosing among the columns that the config names.

    Raises: UserError, with file and line, for what is wrong in a file.
    """
    if data.examples_per_class is not None:
        raise UserError(f"data.examples_per_class={data.examples_per_class}, but choices are no classes; leave it out")
    parts = {}
    for name, path in files_of(data).items():
        examples = read_examples(path, data, label_required=name != "test")
        if name == "train":
            examples = drawn(examples, data.examples, seed)
        parts[name] = Part(examples, features(examples, tokenizer, data.seq_len))
        cut = parts[name].features.truncated
        if cut:
            total = len(examples) * len(data.choices)
            hosts.say(f"{name}: {cut} of {total} choices cut to {data.seq_len} tokens with their text")
    labels = {name: part.features.targets["labels"] for name, part in parts.items()}
    numbers = [str(k) for k in range(len(data.choices))]
    return Task(
        labels=LABELS,
        metrics=("accuracy",),
        parts=parts,
        baselines={"majority_accuracy": majority_baseline(labels["train"], labels["validation"])},
        make_model=lambda c, _, rngs: Assembly(
            Blueprint(c, classifier_heads(c, "choice"), "choice", LABELS), rngs=rngs
        ),
        loss=choice_loss,
        outputs=logits,
        figures=lambda part, outputs, _: _figures(part.features.targets["labels"], np.stack(outputs)),
        write=lambda path, part, outputs, _: classification.write_predictions(
            path.with_suffix(".tsv"), part.examples, np.exp(classification.log_softmax(np.stack(outputs))), numbers
        ),
    )


def read_examples(path: str, data: TaskDataConfig, *, label_required: bool) -> list[Example]:
    """Returns the rows of a table in order; `data.second` is the column of what every choice begins with.

    Rows with an empty text are counted.

    Raises: UserError, with file and line, as `tables.read_rows`, and for a required label that is no number of a
    choice.
    """
    columns = [data.text, *([] if data.second is None else [data.second]), *data.choices]
    required, optional = ([*columns, data.label], []) if label_required else (columns, [data.label])
    numbers = [str(k) for k in range(len(data.choices))]
    check = functools.partial(text_examples.check_label, labels=numbers)
    examples, with_empty = [], 0
    skip_bad = data.skip_bad_rows if label_required else None
    with text_examples.checked(path, check, required=label_required) as label_of:
        for index, row in enumerate(read_rows(path, required, optional, skip_bad=skip_bad)):
            *found, label = row.values
            texts = [text_examples.text_of(value, column, row) for value, column in zip(found, columns, strict=True)]
            with_empty += not all(text.strip() for text in texts)
            start, choices = [], texts[1:]
            if data.second is not None:
                start, choices = texts[1:2], texts[2:]
            joined = tuple(" ".join([*start, choice]) for choice in choices)
            examples.append(Example(texts[0], joined, label_of(label, row), index))
    if with_empty:
        hosts.say(f"{path}: {with_empty} of {len(examples)} examples with an empty text")
    return examples


def features(examples: Sequence[Example], tokenizer: text_examples.Tokenizer, seq_len: int) -> Features:
    """Returns rows of a pair for each choice, each cut to `seq_len`; `starts` [N, K] are where they begin.

    Source: Devlin et al. 2019, section 4.4.
    """
    pairs = [text_examples.Example(one.text, choice, None, one.index) for one in examples for choice in one.choices]
    made = text_examples.features(pairs, tokenizer, seq_len, ())
    choices = len(examples[0].choices)
    lengths_NK = made.lengths_N.reshape(-1, choices)
    groups = [slice(i, i + choices) for i in range(0, len(pairs), choices)]
    numbers = np.arange(1, choices + 1, dtype=np.int32)
    return Features(
        ids=[np.concatenate(made.ids[group]) for group in groups],
        segments=[np.concatenate(made.segments[group]) for group in groups],
        targets={
            "labels": np.array([-1 if one.label is None else int(one.label) for one in examples], np.int32),
            "starts": (np.cumsum(lengths_NK, axis=1) - lengths_NK).astype(np.int32),
        },
        pad_id=made.pad_id,
        truncated=made.truncated,
        spans=[np.repeat(numbers, lengths_K) for lengths_K in lengths_NK],
    )


def logits(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns logits_BK: a score of each choice, from its [CLS], by the pooler where the model has one."""
    encoder_key, head_key = layers.split(key, 2)
    rows = batch["ids"], batch["segments"], batch["positions"], batch["spans"]
    x_BSD = model.encoder(*rows, key=encoder_key, most_spans=batch["starts"].shape[1])
    cls_BKD = gather(x_BSD, batch["starts"])
    read_BKD = model.pooler(cls_BKD) if hasattr(model, "pooler") else cls_BKD
    return model.token_logits(layers.dropout(read_BKD, model.encoder.c.dropout, head_key))[..., 0]


def choice_loss(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the cross entropy (nats) over the choices, and the accuracy, of the rows that have weight."""
    return cross_entropy_sums(logits(model, batch, key), batch["labels"], batch["weights"], "")


def _figures(labels_N: np.ndarray, logits_NK: np.ndarray) -> dict[str, float]:
    loss = -float(np.take_along_axis(classification.log_softmax(logits_NK), labels_N[:, None], axis=1).mean())
    return {"loss": loss, "accuracy": float(np.mean(logits_NK.argmax(axis=1) == labels_N))}

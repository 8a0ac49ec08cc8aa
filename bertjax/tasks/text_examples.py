"""Texts and pairs of texts with a label: from the rows of tables to what a model reads, whatever the label is."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bertjax import hosts
from bertjax.config import TaskDataConfig
from bertjax.data.documents import check_whole
from bertjax.errors import UserError
from bertjax.tasks.batches import Features
from bertjax.tasks.tables import Row, read_rows
from bertjax.tasks.task import Part, files_of


class Tokenizer(Protocol):
    """What features need of a tokenizer."""

    cls_id: int
    sep_id: int
    pad_id: int
    between_ids: Sequence[int]
    """What parts the texts of a pair."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where a table has what: names from its header, or numbers from 0 if it has no header."""

    text: str = "text"
    """The sentence, or the first of the pair."""
    second: str | None = None
    """The second of the pair."""
    label: str = "label"
    """The class."""
    skip_bad: bool | None = None
    """Whether rows that lack some are left out; None where that cannot be asked for, as of a test file."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A row of a table."""

    text: str
    second: str | None
    label: str | None
    index: int
    """Row of the file, from 0."""


def say_absent(path: str, labels: set[str]) -> None:
    """Prints which labels a file to evaluate has no example of: its figures say nothing about them."""
    if labels:
        hosts.say(f"{path} has no example of {', '.join(map(repr, sorted(labels)))}")


def columns_of(data: TaskDataConfig, *, test: bool = False) -> Columns:
    """Returns where the files have what; the test file may have its text elsewhere, and each row has a prediction."""
    text = (data.test_text if test else None) or data.text
    return Columns(text, data.second, data.label, skip_bad=None if test else data.skip_bad_rows)


class Reader(Protocol):
    """Reads a file's examples; those of a test file need no label."""

    def __call__(self, path: str, columns: Columns, *, label_required: bool) -> list[Example]:
        """Returns the examples in order."""


def make_parts(
    data: TaskDataConfig, train: list[Example], read: Reader, make_features: Callable[[list[Example]], Features]
) -> dict[str, Part]:
    """Returns the examples and features of the training examples and of every other file of the task.

    Raises: UserError if two of the files to evaluate would have one name.
    """

    def examples_of(name: str, path: str) -> list[Example]:
        test = name == "test"
        return train if name == "train" else read(path, columns_of(data, test=test), label_required=not test)

    examples = {name: examples_of(name, path) for name, path in files_of(data).items()}
    parts = {name: Part(found, make_features(found)) for name, found in examples.items()}
    for name, part in parts.items():
        empty = int(np.sum(part.features.lengths_N <= 2))  # [CLS] and [SEP]
        pairs = [(one.text.strip(), one.second.strip()) for one in part.examples if one.second is not None]
        halves = sum(bool(text) != bool(second) for text, second in pairs)
        for count, what in (
            (part.features.truncated, f"cut to {data.seq_len} tokens"),
            (empty, "without any token"),
            (halves, "with one text of two"),
        ):
            if count:
                hosts.say(f"{name}: {count} of {len(part.examples)} examples {what}")
    return parts


def few_of_each(examples: list[Example], data: TaskDataConfig, seed: int) -> list[Example]:
    """Returns `examples_per_class` examples of each label, in the order of the file; all if it is None."""
    if data.examples_per_class is None:
        return examples
    shuffled = np.random.default_rng(seed).permutation(len(examples))
    kept: list[int] = []
    for label in sorted({example.label or "" for example in examples}):
        of_label = [i for i in shuffled if examples[i].label == label]
        if len(of_label) < data.examples_per_class:
            raise UserError(
                f"data.examples_per_class={data.examples_per_class}, but {data.train} has {len(of_label)} of {label!r}"
            )
        kept += of_label[: data.examples_per_class]
    return [examples[i] for i in sorted(kept)]


class CheckLabel(Protocol):
    """Checks what stands in the column of the label."""

    def __call__(self, value: Any, row: Row, *, required: bool) -> str | None:
        """Returns it as text, None if it is not known."""


def check_label(value: Any, row: Row, *, required: bool, labels: Sequence[str] | None = None) -> str | None:
    """Returns the label as a string; JSON may have it as a whole number or as true or false.

    Raises: UserError if it is not one of `labels`, where those are given.
    """
    label = "" if value is None else str(value).strip()
    if not label and not required:
        return None
    if not label or not isinstance(value, str | int):
        raise UserError(f"{row.where}: {value!r} is not a label; use a string or a whole number")
    if labels is not None and label not in labels:
        raise UserError(f"{row.where}: unknown label {label!r}; known are {', '.join(map(repr, labels))}")
    return label


@contextlib.contextmanager
def checked(path: str | Path, check: CheckLabel, *, required: bool) -> Iterator[Callable[[Any, Row], str | None]]:
    """Gives what checks a row's label; where none is required, those that `check` refuses are taken as not known.

    They are counted and the first is named: test files have -1, - and the like for what they do not tell.
    """
    refused: list[str] = []

    def label_of(value: Any, row: Row) -> str | None:
        try:
            return check(value, row, required=required)
        except UserError as error:
            if required:
                raise
            refused.append(str(error))
            return None

    yield label_of
    if refused:
        hosts.say(f"{path}: {len(refused)} labels are taken as not known; the first: {refused[0]}")


def read_examples(
    path: str | Path,
    columns: Columns,
    check: CheckLabel = check_label,
    *,
    label_required: bool = True,
) -> list[Example]:
    """Returns the rows of a table in order, their labels as `check` has them.

    Raises: UserError, with file and line, as `tables.read_rows`, and for a text or a required label that is none.
    """
    texts = [columns.text] if columns.second is None else [columns.text, columns.second]
    required, optional = ([*texts, columns.label], []) if label_required else (texts, [columns.label])
    examples = []
    with checked(path, check, required=label_required) as label_of:
        for index, row in enumerate(read_rows(path, required, optional, skip_bad=columns.skip_bad)):
            *found, label = row.values
            text, *seconds = (text_of(value, column, row) for value, column in zip(found, texts, strict=True))
            second = seconds[0] if seconds else None
            examples.append(Example(text, second, label_of(label, row), index))
    return examples


def text_of(value: Any, column: str, row: Row) -> str:
    """Returns what stands in the column of a text. Raises: UserError, with file and line, if it is none."""
    if value is None:
        raise UserError(f"{row.where}: column {column!r} is null; give each row a text")
    if not isinstance(value, str):
        raise UserError(f"{row.where}: {value!r} is not a text; put it in quotes")
    check_whole(value, row.where)
    return value


def features(examples: Sequence[Example], tokenizer: Tokenizer, seq_len: int, labels: Sequence[str]) -> Features:
    """Returns [CLS] text [SEP], or [CLS] text [SEP] second [SEP] in segments 0 and 1; `labels` -1 where unknown.

    A tokenizer may have two [SEP] between them, as RoBERTa's. A second text without tokens is none. What is longer than
    `seq_len` loses tokens at the end, of a pair always the longer text.
    Source: google-research/bert, run_classifier.py, convert_single_example.
    """
    first = tokenizer.encode_batch([example.text for example in examples])
    second = tokenizer.encode_batch([example.second or "" for example in examples])
    ids, segments, truncated = [], [], 0
    for a, b in zip(first, second, strict=True):
        between = tokenizer.between_ids if b else [tokenizer.sep_id]
        kept_a, kept_b = _truncated(len(a), len(b), seq_len - (len(between) + 2 if b else 2))
        truncated += (kept_a, kept_b) != (len(a), len(b))
        head = [tokenizer.cls_id, *a[:kept_a], *between]
        tail = [*b[:kept_b], tokenizer.sep_id] if b else []
        ids.append(np.array(head + tail, np.int32))
        segments.append(np.repeat(np.array([0, 1], np.int32), [len(head), len(tail)]))
    number = {name: i for i, name in enumerate(labels)}
    targets = np.array([-1 if e.label is None else number[e.label] for e in examples], np.int32)
    return Features(ids, segments, {"labels": targets}, tokenizer.pad_id, truncated)


def _truncated(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns the lengths that are left when the longer one, of equal ones the second, gives until both fit."""
    while first + second > room:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return first, second

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import finetune
from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.report import FIGURES
from bertjax.tasks.task import drawn, files_of

ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": "a b", "label": "x"}, {"text": "b c", "label": "y"}],
    "multilabel": [{"text": "a b", "label": ["x", "y"]}],
    "regression": [{"text": "a b", "label": 0.5}, {"text": "b c", "label": 1.5}],
    "tagging": [{"text": ["a", "b"], "label": ["B-X", "O"]}],
    "answers": [{"question": "b", "context": "a b", "answers": [{"text": "a", "answer_start": 0}]}],
    "choice": [{"text": "a", "0": "b", "1": "c", "label": "1"}],
}
"""A file of each task."""


@pytest.mark.parametrize("name", finetune.TASKS)
def test_the_report_has_every_figure_that_may_choose_the_checkpoint(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[name]))
    choices = ("0", "1") if name == "choice" else ()
    task = finetune.TASKS[name](TaskDataConfig(train=str(path), validation=str(path), choices=choices), tokenizer, 0)
    assert {*task.metrics} <= {figure.key for figure in FIGURES}


def test_files_have_names() -> None:
    data = TaskDataConfig(train="a/x.tsv", validation="a/y.tsv", also=("b/dev_mismatched.tsv",))
    assert files_of(data) == {"train": "a/x.tsv", "validation": "a/y.tsv", "dev_mismatched": "b/dev_mismatched.tsv"}
    assert files_of(TaskDataConfig(train="x", validation="y", test="z")) == {
        "train": "x",
        "validation": "y",
        "test": "z",
    }


def test_a_tfds_data_set_stands_for_its_split_of_that_name() -> None:
    data = TaskDataConfig(
        train="tfds:glue/mnli",
        validation="tfds:glue/mnli:2.0.0#validation_matched",
        also=("tfds:glue/mnli:2.0.0#validation_mismatched",),
    )
    assert files_of(data) == {
        "train": "tfds:glue/mnli#train",
        "validation": "tfds:glue/mnli:2.0.0#validation_matched",
        "validation_mismatched": "tfds:glue/mnli:2.0.0#validation_mismatched",
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TaskDataConfig(validation="y"), "data.train is not set"),
        (TaskDataConfig(train="x"), "data.validation is not set"),
        (
            TaskDataConfig(train="x", validation="y", also=("b/train.tsv",)),
            "b/train.tsv is called 'train', as one of the task's other files is",
        ),
        (TaskDataConfig(train="x", validation="y", also=("b/test.tsv",)), "b/test.tsv is called 'test'"),
    ],
)
def test_files_that_are_missing_or_share_a_name_are_said(data: TaskDataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        files_of(data)


def test_examples_are_drawn_by_the_seed_in_their_order() -> None:
    few, again, other = (drawn(range(1000), 20, seed) for seed in (0, 0, 1))
    assert few == again != other
    assert few == sorted(set(few))
    assert len(few) == 20
    assert drawn([3, 1], None, 0) == drawn([3, 1], 5, 0) == [3, 1]

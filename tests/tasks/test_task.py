from __future__ import annotations

import pytest

from bertjax.config import TaskDataConfig
from bertjax.errors import UserError
from bertjax.tasks.task import drawn, files_of


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

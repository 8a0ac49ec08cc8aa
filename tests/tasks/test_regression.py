from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from bertjax.config import MeshConfig, ModelConfig, TaskDataConfig
from bertjax.errors import UserError
from bertjax.sharding import make_mesh
from bertjax.tasks.regression import check_score, features, make_task, write_predictions
from bertjax.tasks.text_examples import Columns, Example, read_examples
from bertjax.training.step import fresh_params
from tests.tasks.letters import Letters


def test_scores_are_targets_and_unknown_ones_are_0() -> None:
    examples = [Example("ab", "c", "2.5", 0), Example("d", "e", None, 1)]
    made = features(examples, Letters(), 8)
    assert made.targets["scores"].tolist() == [2.5, 0.0]
    assert made.targets.keys() == {"scores"}
    assert made.ids[0].tolist() == [1, 10, 11, 2, 12, 2]


@pytest.mark.parametrize("score", ["high", "nan", "inf", ""])
def test_what_is_no_number_is_no_score(tmp_path: Path, score: str) -> None:
    (tmp_path / "a.tsv").write_text(f"text\tlabel\na\t{score}\n")
    with pytest.raises(UserError, match=rf"a.tsv:2: '{score}' is not a score"):
        read_examples(tmp_path / "a.tsv", Columns(), check_score)


def test_a_score_may_be_a_fraction_of_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": 0.5}\n{"text": "b"}\n')
    examples = read_examples(tmp_path / "a.jsonl", Columns(), check_score, label_required=False)
    assert [example.label for example in examples] == ["0.5", None]


@pytest.mark.parametrize(("lowest", "label"), [("0.5", None), ("-2", "-1.0")])
def test_a_score_of_minus_one_in_a_test_file_is_none_unless_scores_are_negative(
    tmp_path: Path, lowest: str, label: str | None
) -> None:
    train, test = tmp_path / "train.tsv", tmp_path / "test.tsv"
    train.write_text(f"text\tlabel\na\t{lowest}\nb\t3\n")
    test.write_text("text\tlabel\na\t-1.0\n")
    data = TaskDataConfig(train=str(train), validation=str(train), test=str(test), seq_len=8)
    task = make_task(data, Letters(), 0)  # type: ignore[arg-type]
    assert [example.label for example in task.parts["test"].examples] == [label]
    as_validation = dataclasses.replace(data, validation=str(test))
    known = make_task(as_validation, Letters(), 0)  # type: ignore[arg-type]
    assert known.parts["validation"].examples[0].label == "-1.0"


def test_classes_cannot_be_asked_for() -> None:
    with pytest.raises(UserError, match="examples_per_class=5, but scores are no classes"):
        make_task(TaskDataConfig(examples_per_class=5), Letters(), 0)  # type: ignore[arg-type]


def test_predictions_are_a_table(tmp_path: Path) -> None:
    examples = [Example("a", None, "2.500", 0), Example("b", None, None, 1)]
    path = write_predictions(tmp_path / "p.tsv", examples, np.array([2.25, -0.5]))
    assert path.read_text() == "index\tprediction\tlabel\n0\t2.250\t2.500\n1\t-0.500\t\n"


def test_the_bias_starts_at_the_mean_score(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\nab\t1\nc\t2\nd\t4.5\n")
    data = TaskDataConfig(train=str(tmp_path / "a.tsv"), validation=str(tmp_path / "a.tsv"), seq_len=8)
    task = make_task(data, Letters(), 0)  # type: ignore[arg-type]
    c = ModelConfig(vocab_size=40, width=8, layers=1, heads=2, mlp_width=16, max_positions=8)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:2])):
        params = fresh_params(lambda rngs: task.make_model(c, "cls", rngs), 0)
    assert np.asarray(params["classifier"]["bias"]) == pytest.approx([2.5])

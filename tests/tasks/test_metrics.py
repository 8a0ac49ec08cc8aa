from __future__ import annotations

import numpy as np
import pytest

from bertjax.tasks.metrics import classification_metrics, majority_baseline, multilabel_metrics, regression_metrics


def metrics(labels: list[int], predictions: list[int], n_classes: int) -> dict[str, float]:
    return classification_metrics(np.array(labels, int), np.array(predictions, int), n_classes)


def test_two_classes_by_hand() -> None:
    # Of class 1: 2 right, 1 missed, 2 guessed wrongly; class 0: 3 right.
    figures = metrics([1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 0, 0, 0], 2)
    f1, f1_of_0 = 4 / 7, 6 / 9
    assert figures == pytest.approx(
        {
            "accuracy": 5 / 8,
            "precision": 2 / 4,
            "recall": 2 / 3,
            "f1": f1,
            "f1_macro": (f1 + f1_of_0) / 2,
            "matthews": (2 * 3 - 2 * 1) / np.sqrt(4 * 3 * 5 * 4),
        }
    )


def test_three_classes_by_hand() -> None:
    # Right per class: 1 of 2, 1 of 1, 1 of 1; guessed 1, 2, 1.
    figures = metrics([0, 0, 1, 2], [0, 1, 1, 2], 3)
    assert figures == pytest.approx(
        {
            "accuracy": 3 / 4,
            "precision": (1 + 1 / 2 + 1) / 3,
            "recall": (1 / 2 + 1 + 1) / 3,
            "f1": (2 / 3 + 2 / 3 + 1) / 3,
            "f1_macro": (2 / 3 + 2 / 3 + 1) / 3,
            "matthews": (3 * 4 - (2 * 1 + 1 * 2 + 1 * 1)) / np.sqrt((16 - 6) * (16 - 6)),
        }
    )


def test_perfect_inverted_and_blind() -> None:
    labels = [0, 1, 1, 0, 1]
    assert set(metrics(labels, labels, 2).values()) == {1.0}
    assert metrics(labels, [1 - label for label in labels], 2)["matthews"] == pytest.approx(-1)
    assert metrics(labels, [1] * 5, 2)["matthews"] == 0


def test_absent_classes_count_for_nothing() -> None:
    assert metrics([0, 0], [0, 0], 2) == pytest.approx(
        {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "f1_macro": 1, "matthews": 0}
    )
    assert metrics([0, 1, 0, 1], [0, 1, 0, 1], 5)["f1_macro"] == 1
    # Class 2 is guessed and never right: its share of nothing is 0.
    assert metrics([0, 1], [0, 2], 3)["recall"] == pytest.approx(1 / 3)


def test_no_examples() -> None:
    assert set(metrics([], [], 3).values()) == {0.0}


def test_the_majority_is_that_of_the_training_labels() -> None:
    assert majority_baseline(np.array([0, 1, 1]), np.array([0, 0, 0, 1])) == 0.25


def test_correlations_by_hand() -> None:
    scores_N = np.array([1.0, 2.0, 3.0, 4.0])
    figures = regression_metrics(scores_N, np.array([1.0, 4.0, 9.0, 16.0]))
    assert figures == pytest.approx({"pearson": 25 / np.sqrt(5 * 129), "spearman": 1.0})
    assert regression_metrics(np.array([1.0, 4.0, 9.0, 16.0]), scores_N)["spearman"] == pytest.approx(1.0)
    tied = regression_metrics(scores_N, np.array([1.0, 1.0, 0.0, 2.0]))
    assert tied["spearman"] == pytest.approx(1.5 / np.sqrt(5 * 4.5))
    assert regression_metrics(scores_N, np.ones(4)) == {"pearson": 0.0, "spearman": 0.0}
    constant_N = np.full(7, 2.7)  # whose mean is another number
    assert regression_metrics(constant_N, constant_N) == {"pearson": 0.0, "spearman": 0.0}


def test_multilabel_figures() -> None:
    labels_NC = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]]) > 0
    guesses_NC = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]]) > 0
    figures = multilabel_metrics(labels_NC, guesses_NC)
    assert figures == pytest.approx({"f1": 2 * 2 / (4 + 3), "f1_macro": (4 / 5 + 0) / 2, "exact": 1 / 4})

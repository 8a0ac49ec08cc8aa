"""Figures from labels and predictions. A share of nothing is 0.

Shape letters: N examples, C classes.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are imported where they are used, which takes a while


def classification_metrics(labels_N: np.ndarray, predictions_N: np.ndarray, n_classes: int) -> dict[str, float]:
    """Returns accuracy, precision, recall, f1, f1_macro and matthews.

    With two classes precision, recall and f1 are those of class 1, otherwise means over the classes that occur among
    labels or predictions, as f1_macro always is. `matthews` is the correlation of labels and predictions.
    Source: Gorodkin 2004, Comparing two K-category assignments by a K-category correlation coefficient (R_K).
    """
    confusion_CC = np.zeros((n_classes, n_classes))
    np.add.at(confusion_CC, (labels_N, predictions_N), 1)
    hits_C, true_C, guessed_C = np.diagonal(confusion_CC), confusion_CC.sum(1), confusion_CC.sum(0)
    f1_C = _share(2 * hits_C, true_C + guessed_C)
    averaged = np.arange(n_classes) == 1 if n_classes == 2 else true_C + guessed_C > 0
    return {
        "accuracy": float(_share(hits_C.sum(), true_C.sum())),
        "precision": _mean(_share(hits_C, guessed_C), averaged),
        "recall": _mean(_share(hits_C, true_C), averaged),
        "f1": _mean(f1_C, averaged),
        "f1_macro": _mean(f1_C, true_C + guessed_C > 0),
        "matthews": _matthews(hits_C.sum(), true_C, guessed_C),
    }


def multilabel_metrics(labels_NC: np.ndarray, predictions_NC: np.ndarray) -> dict[str, float]:
    """Returns f1 over all decisions (micro), f1_macro over classes that occur, and the share of texts exactly right."""
    hits_C = (labels_NC & predictions_NC).sum(0).astype(float)
    there_C = (labels_NC.sum(0) + predictions_NC.sum(0)).astype(float)
    return {
        "f1": float(_share(2 * hits_C.sum(), there_C.sum())),
        "f1_macro": _mean(_share(2 * hits_C, there_C), there_C > 0),
        "exact": float((labels_NC == predictions_NC).all(axis=1).mean()),
    }


def majority_baseline(train_labels_N: np.ndarray, labels_N: np.ndarray) -> float:
    """Returns the accuracy of always guessing the most frequent training label."""
    return float(np.mean(labels_N == np.bincount(train_labels_N).argmax()))


def regression_metrics(scores_N: np.ndarray, predictions_N: np.ndarray) -> dict[str, float]:
    """Returns the Pearson correlation and Spearman's, of ranks, in which equal scores share their mean rank.

    Both are 0 where all scores, or all predictions, are equal.
    """
    ranks = scipy.stats.rankdata(scores_N), scipy.stats.rankdata(predictions_N)
    return {"pearson": _correlation(scores_N, predictions_N), "spearman": _correlation(*ranks)}


def _correlation(x_N: np.ndarray, y_N: np.ndarray) -> float:
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return 0.0  # and not what rounding leaves of it
    x_N, y_N = (z_N - np.mean(z_N) for z_N in (x_N.astype(np.float64), y_N.astype(np.float64)))
    return float(_share(x_N @ y_N, np.asarray(np.linalg.norm(x_N) * np.linalg.norm(y_N))))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole != 0)


def _mean(x_C: np.ndarray, averaged_C: np.ndarray) -> float:
    return float(x_C[averaged_C].mean()) if averaged_C.any() else 0.0


def _matthews(hits: float, true_C: np.ndarray, guessed_C: np.ndarray) -> float:
    total = true_C.sum()
    covariance = hits * total - true_C @ guessed_C
    spread = (total**2 - true_C @ true_C) * (total**2 - guessed_C @ guessed_C)
    return float(covariance / np.sqrt(spread)) if spread else 0.0

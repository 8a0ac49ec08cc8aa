"""What a classifier reaches that only counts tokens: the baseline that a fine-tuned encoder has to beat.

Shape letters: N examples, V vocabulary, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy  # its parts are imported where they are used, which takes a while

STRENGTH = 3.0  # of the fit against the penalty; of 1, 3, 10, 30 and 100 near the best on SST-2 and on the quickstart


def bag_of_words_baseline(
    train_ids: Sequence[Sequence[int] | np.ndarray],
    train_labels_N: np.ndarray,
    ids: Sequence[Sequence[int] | np.ndarray],
    labels_N: np.ndarray,
    n_classes: int,
    vocab_size: int,
) -> float:
    """Returns the accuracy of logistic regression on weighted token counts, fitted on the training examples."""
    idf_V = _inverse_document_frequency(train_ids, vocab_size)
    weights_VC, bias_C = _fit(_features(train_ids, idf_V), train_labels_N, n_classes)
    return float(np.mean((_features(ids, idf_V) @ weights_VC + bias_C).argmax(1) == labels_N))


def _inverse_document_frequency(ids: Sequence[Sequence[int] | np.ndarray], vocab_size: int) -> np.ndarray:
    documents_V = np.zeros(vocab_size)
    for row in ids:
        documents_V[np.unique(np.asarray(row, np.int64))] += 1
    return np.log((1 + len(ids)) / (1 + documents_V)) + 1


def _features(ids: Sequence[Sequence[int] | np.ndarray], idf_V: np.ndarray) -> scipy.sparse.csr_array:
    """Returns x_NV: 1 + log of the count, times the inverse document frequency, each row of length 1."""
    counts = [np.unique(np.asarray(row, np.int64), return_counts=True) for row in ids]
    columns = np.concatenate([tokens for tokens, _ in counts])
    starts = np.cumsum([0] + [len(tokens) for tokens, _ in counts])
    values = [(1 + np.log(count)) * idf_V[tokens] for tokens, count in counts]
    values = [x / max(float(np.linalg.norm(x)), 1e-12) for x in values]
    return scipy.sparse.csr_array((np.concatenate(values), columns, starts), shape=(len(ids), len(idf_V)))


def _fit(x_NV: scipy.sparse.csr_array, labels_N: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights_VC and bias_C of the multinomial logistic regression with a squared penalty on the weights."""
    one_hot_NC = np.eye(n_classes)[labels_N]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_VC, bias_C = _unflat(flat, n_classes)
        logits_NC = x_NV @ weights_VC + bias_C
        log_probability_NC = scipy.special.log_softmax(logits_NC, axis=1)
        error_NC = STRENGTH * (np.exp(log_probability_NC) - one_hot_NC)
        gradient_VC = x_NV.T @ error_NC + weights_VC
        value = 0.5 * np.sum(weights_VC**2) - STRENGTH * np.sum(one_hot_NC * log_probability_NC)
        return float(value), np.concatenate([gradient_VC.ravel(), error_NC.sum(0)])

    start = np.zeros((x_NV.shape[1] + 1) * n_classes)
    return _unflat(
        scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x, n_classes
    )


def _unflat(flat: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    return flat[:-n_classes].reshape(-1, n_classes), flat[-n_classes:]

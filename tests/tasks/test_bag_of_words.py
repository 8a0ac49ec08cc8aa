from __future__ import annotations

import numpy as np

from bertjax.tasks.bag_of_words import bag_of_words_baseline


def examples(number: int, seed: int, signal: float) -> tuple[list[list[int]], np.ndarray]:
    """Tokens 0 to 2 name the class with probability `signal`; 10 to 29 are noise, 3 is everywhere."""
    draw = np.random.default_rng(seed)
    labels_N = draw.integers(0, 3, number)
    named_N = np.where(draw.random(number) < signal, labels_N, draw.integers(0, 3, number))
    return [[3, int(named), *draw.integers(10, 30, 12)] for named in named_N], labels_N


def accuracy(signal: float) -> float:
    (train, train_labels_N), (test, labels_N) = examples(600, 0, signal), examples(600, 1, signal)
    return bag_of_words_baseline(train, train_labels_N, test, labels_N, n_classes=3, vocab_size=30)


def test_finds_the_word_that_tells() -> None:
    assert accuracy(signal=1.0) == 1.0
    assert 0.6 < accuracy(signal=0.5) < 0.74  # 2/3 is the best there is
    assert 0.26 < accuracy(signal=0.0) < 0.41  # chance


def test_the_order_of_words_is_not_seen() -> None:
    train = [[1, 2, 3], [3, 2, 1]] * 20
    labels_N = np.array([0, 1] * 20)
    assert bag_of_words_baseline(train, labels_N, train, labels_N, n_classes=2, vocab_size=5) == 0.5


def test_examples_without_words_and_new_words() -> None:
    train, labels_N = [[1], [2], [1], [2], []], np.array([0, 1, 0, 1, 0])
    assert bag_of_words_baseline(train, labels_N, [[1, 4], [2, 4], []], np.array([0, 1, 0]), 2, 5) == 1.0

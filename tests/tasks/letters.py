"""A tokenizer of letters, examples for it, and how its ids are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bertjax.tasks.text_examples import Example


class Letters:
    """A tokenizer whose tokens are letters."""

    pad_id, cls_id, sep_id = 0, 1, 2
    between_ids: Sequence[int] = (2,)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 10 for letter in text] for text in texts]


def example(text: str, second: str | None = None, label: str | None = None, index: int = 0) -> Example:
    return Example(text, second, label, index)


def readable(ids: np.ndarray) -> str:
    return "".join({0: ".", 1: "[", 2: "]"}.get(int(i), chr(int(i) + ord("a") - 10)) for i in ids)

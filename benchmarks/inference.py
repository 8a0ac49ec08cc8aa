"""How soon, and how many a second, does a model make texts into vectors, by their length and their number?

    python -m benchmarks.inference MODEL [--lengths 16 64 128 --batches 1 8 64]

MODEL is what `bertjax.load` takes. The texts are whole words of its vocabulary, drawn at random, tokenization and all.
For each length (tokens with [CLS] and [SEP]) and each number of texts: the median and the slowest of several calls of
`model.embed`, and the first call, which compiles unless the cache has it. Prints a JSON line.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import bertjax
from benchmarks.result import print_result
from bertjax import backend, command_line
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError, reported


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Times texts to vectors."""

    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or one of Hugging Face's or Google's."""
    lengths: tuple[int, ...] = (16, 64, 128)
    """Of the texts, in tokens."""
    batches: tuple[int, ...] = (1, 8, 64)
    """Numbers of texts in a call."""
    repeats: int = 20
    """Calls that are timed."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} gives no time; use 1 or more")


def make_texts(tokenizer: Tokenizer, length: int, number: int) -> list[str]:
    """Returns texts that are so many tokens long, [CLS] and [SEP] counted.

    Raises: UserError if the vocabulary has no whole words, or the length is too short for one.
    """
    words = [piece for piece in tokenizer.pieces if piece.isalpha() and len(tokenizer.encode(piece)) == 1]
    if not words or length < 3:
        raise UserError(
            f"no text has length={length}: use 3 or more, and a vocabulary with words, of which {len(words)}"
        )
    rng = np.random.default_rng(length)
    return [" ".join(rng.choice(words, length - 2)) for _ in range(number)]


def seconds_of_calls(model: bertjax.Model, texts: list[str], repeats: int) -> list[float]:
    """Returns the seconds of each call of `embed`."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        model.embed(texts)
        found.append(time.perf_counter() - started)
    return found


def measure(a: Arguments) -> dict[str, Any]:
    """Returns the figures of every bucket. Raises: UserError for a length that the model does not read."""
    model = bertjax.load(a.model)
    buckets = []
    for length, number in itertools.product(a.lengths, a.batches):
        texts = make_texts(model.tokenizer, length, number)
        first, *later = seconds_of_calls(model, texts, 1 + a.repeats)
        typical = statistics.median(later)
        buckets.append(
            {
                "tokens": length,
                "texts": number,
                "milliseconds": {"median": 1e3 * typical, "slowest": 1e3 * max(later), "first": 1e3 * first},
                "texts_per_second": number / typical,
                "tokens_per_second": number * length / typical,
            }
        )
    c = model.config
    shape = {name: getattr(c, name) for name in ("family", "layers", "width")}
    return shape | {"device": jax.devices()[0].device_kind, "buckets": buckets}


def main() -> None:
    """The command."""
    backend.start()
    a = command_line.arguments_of(Arguments, __doc__ or "")
    with reported():
        print_result("inference", measure(a), "jax", "flax")


if __name__ == "__main__":
    main()

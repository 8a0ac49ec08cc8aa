"""How many rows a second does one process read, decode and mask?

    python -m benchmarks.reading --data CORPUS [--masking whole_word --batches 20 ...]

Makes training batches as train.py does, in one thread and nothing else. Prints one JSON line: rows a second by the
clock and by this process's CPU time, which other work on the machine hardly changes, the share of slots that is used,
and how many such processes give `--wanted` rows a second.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import tyro

from benchmarks.result import print_result
from bertjax.config import DataConfig
from bertjax.data.batches import Batch, training_batches
from bertjax.data.corpus import open_corpus
from bertjax.data.mixture import open_mixture
from bertjax.errors import reported


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures how fast training batches are made."""

    data: str
    """A directory that `bertjax prepare` wrote."""
    masking: Literal["token", "whole_word", "ngram"] = "token"
    """What is predicted together."""
    max_predictions: int = 80
    """Most predictions of a pair."""
    batch_size: int = 256
    """Rows of a batch."""
    batches: int = 20
    """Batches that are timed, one by one; the figures are medians. Another comes before them."""
    wanted: int = 5100
    """Rows a second to be reached: three times what BERT-base reads on an H200 at 512 positions."""


def measure(a: Arguments) -> dict[str, Any]:
    """Returns the figures. Raises: UserError if the corpus cannot be read."""
    corpus = open_corpus(a.data)
    seq_len = corpus.manifest["settings"]["seq_len"]
    c = DataConfig(path=a.data, seq_len=seq_len, masking=a.masking, max_predictions=a.max_predictions)
    batch_of = training_batches(open_mixture(c), c, rows=range(a.batch_size), batch_size=a.batch_size, seed=0)
    batch_of(0)
    seconds = [_seconds(batch_of, step) for step in range(1, a.batches + 1)]
    clock, cpu = (a.batch_size / statistics.median(column) for column in zip(*seconds, strict=True))
    return {
        "seq_len": seq_len,
        "pairs_per_row": corpus.pairs_per_row,
        "slots_used": 1 - corpus.manifest["splits"]["train"]["padding_share"],
        "rows_per_second": round(clock),
        "rows_per_cpu_second": round(cpu),
        "processes": math.ceil(a.wanted / cpu),
    }


def _seconds(batch_of: Callable[[int], Batch], step: int) -> tuple[float, float]:
    """Returns what a batch takes, by the clock and of CPU time."""
    clock, cpu = time.perf_counter(), time.process_time()
    batch_of(step)
    return time.perf_counter() - clock, time.process_time() - cpu


def main() -> None:
    """The command."""
    a = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported():
        result = dataclasses.asdict(a) | measure(a)
    print_result("reading", result, "numpy")


if __name__ == "__main__":
    main()

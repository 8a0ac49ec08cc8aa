"""How fast is the step that train.py runs: time, real tokens/s, share of the peak, memory, compilation?

    python -m benchmarks.train_step [--config=FILE --group.field=value ...] [--against=huggingface]

Without --config it takes 4 layers of width 512 at 128 positions, 16 rows, dropout 0.1. With --data.path=CORPUS it reads
a batch of that, else random ids in pairs of the stated `--lengths`. `--against=huggingface` also times transformers'
BertForPreTraining in PyTorch on the same batch: as it is and by torch.compile, with SDPA, in float32 and in bfloat16 by
autocast, with PyTorch's fused AdamW; packed pairs it reads one in a row, padded to the longest. Both then have one
device. Every one has a process of its own, and they take turns. Prints a JSON line.

A step's `seconds` are the median and the fastest of the turns, the device never waited for within one. `host_seconds`
are Python's: from the call of the step, on an idle device, until it returns with the device at work. `attention` is
what computes it. The share of the peak, `mfu`, is by bertjax/training/flops.py, of the maker's figure, or, where there
is none, as for CPUs, of the most that products of large matrices reached in that precision in turns of the same run.
`gigabytes` are the most memory of the device, on CPUs of the process. The ratios are medians over the rounds.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro

import train
from benchmarks.alternation import Contender, Timing, alternate, best, ratio
from benchmarks.our_step import our_products, our_step
from benchmarks.result import print_result
from benchmarks.rows import made_up_batch, unpacked
from bertjax import command_line
from bertjax.config import Config, DataConfig, ModelConfig, TrainConfig
from bertjax.data.batches import Batch, training_batches
from bertjax.data.mixture import open_mixture
from bertjax.errors import UserError, reported
from bertjax.training.flops import flops_per_token

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
VOCAB_SIZE = 30_522  # of made-up ids, where the config leaves it open: that of BERT's uncased vocabulary


def default_config() -> Config:
    """Returns what is measured without --config."""
    return Config(
        model=ModelConfig(layers=4, width=512, heads=8, mlp_width=2048),
        data=DataConfig(seq_len=128),
        train=TrainConfig(batch_size=16),
    )


def _config() -> Config:
    path, c = command_line.config_file(Config, sys.argv[1:])
    return default_config() if path is None else c


@dataclasses.dataclass(frozen=True)
class Configured:
    """Which step a benchmark is of."""

    config: Annotated[
        Any, tyro.conf.arg(name="", constructor=Config), tyro.conf.configure(tyro.conf.FlagConversionOff)
    ] = dataclasses.field(default_factory=_config)
    file: Annotated[str, tyro.conf.arg(name="config", help="Python file whose get_config() makes the defaults.")] = ""
    pairs_per_row: int = 1
    """Of the made-up rows."""

    def __post_init__(self) -> None:
        self._check_counts("pairs_per_row")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is less than 1; use 1 or more")


@dataclasses.dataclass(frozen=True)
class Measured(Configured):
    """What a benchmark that times the step is given."""

    lengths: tuple[int, ...] = ()
    """Of the made-up pairs, in tokens, over and over; none takes rows that are full."""
    rounds: int = 5
    """Turns that everyone has."""
    turn_seconds: float = 4.0
    """About how long a turn is; at least a step."""
    at_once: bool = False
    """Compiles all at the same time: sooner on many cores, but `compile_seconds` are not those of one alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("rounds")


@dataclasses.dataclass(frozen=True)
class Arguments(Measured):
    """Times the train step, alone or beside Hugging Face's model in PyTorch."""

    precisions: tuple[Precision, ...] = PRECISIONS
    """Of the steps."""
    against: Literal["", "huggingface"] = ""
    """Whom to compare with (extra `parity`)."""
    ways: tuple[Literal["eager", "compiled"], ...] = ("eager", "compiled")
    """How PyTorch runs theirs."""


def read_batch(a: Measured) -> tuple[Config, Batch, bool]:
    """Returns the config with the size of the vocabulary, a batch, and whether it has next sentences."""
    c: Config = a.config
    if c.data.path:
        corpus = open_mixture(c.data)
        size = c.train.batch_size
        batches = training_batches(corpus, c.data, rows=range(size), batch_size=size, seed=c.train.seed)
        return train.with_vocabulary(c, corpus), batches(0), corpus.next_sentence
    vocab_size = c.model.vocab_size or VOCAB_SIZE
    c = dataclasses.replace(c, model=dataclasses.replace(c.model, vocab_size=vocab_size))
    batch = made_up_batch(
        c.data, c.train.batch_size, vocab_size=vocab_size, lengths=a.lengths, pairs_per_row=a.pairs_per_row
    )
    return c, batch, True


def in_precision(c: Config, precision: Precision) -> Config:
    """Returns the config with products in that precision."""
    return dataclasses.replace(c, train=dataclasses.replace(c.train, precision=precision))


def measure(a: Arguments) -> dict[str, Any]:
    """Returns all figures."""
    c, batch, next_sentence = read_batch(a)
    contenders: dict[str, Contender] = {}
    for precision in a.precisions:
        contenders[f"products_{precision}"] = Contender(our_products, (precision,))
        ours = (in_precision(c, precision), batch, next_sentence, 1 if a.against else None)
        contenders[f"ours_{precision}"] = Contender(our_step, ours)
    found: dict[str, Any] = {}
    if a.against:
        theirs, found["left_out"] = their_contenders(a, c, batch, next_sentence)
        contenders |= theirs
    timings = alternate(contenders, rounds=a.rounds, turn_seconds=a.turn_seconds, at_once=a.at_once)
    found |= shape(c, batch)
    products = {str(precision): best_products(timings, precision) for precision in PRECISIONS}
    found["products_tflops"] = {precision: reached / 1e12 for precision, reached in products.items() if reached}
    makers = next((peak for timing in timings.values() if (peak := timing.facts.get("peak_flops"))), None)
    for name, timing in timings.items():
        if "products" not in name:
            peak = makers or products[name.rpartition("_")[2]]
            found[name] = figures(timing, found["tokens"], found["flop"], peak)
    return found | ratios(timings)


def shape(c: Config, batch: Batch) -> dict[str, Any]:
    """Returns what was computed."""
    tokens = int((batch["spans"] > 0).sum())
    of_model = {name: getattr(c.model, name) for name in ("layers", "width", "heads", "vocab_size", "dropout")}
    return of_model | {
        "rows": len(batch["ids"]),
        "positions": batch["ids"].shape[1],
        "pairs": int(batch["spans"].max(axis=1).sum()),
        "tokens": tokens,
        "flop": tokens * flops_per_token(c.model, c.model.vocab_size or VOCAB_SIZE, batch),
    }


def figures(timing: Timing, tokens: int, flop: float, peak: float) -> dict[str, Any]:
    """Returns those of a step; `peak` is in FLOP/s."""
    return timing.facts | {
        "seconds": {"median": timing.median, "fastest": timing.fastest},
        "tokens_per_second": {"median": tokens / timing.median, "fastest": tokens / timing.fastest},
        "mfu": flop / timing.median / peak,
    }


def best_products(timings: Mapping[str, Timing], precision: Precision) -> float:
    """Returns the most FLOP/s that anybody's products reached in that precision, 0 if nobody had any."""
    mine = [timing for name, timing in timings.items() if "products" in name and name.endswith(precision)]
    return max((timing.facts["flop"] / timing.fastest for timing in mine), default=0.0)


def ratios(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Returns how much faster we are: in float32 and in all, each with what was fastest there."""
    found = {}
    for name, end in (("ratio_float32", "_float32"), ("ratio_best", "")):
        steps = [step for step in timings if "products" not in step and step.endswith(end)]
        ours = [step for step in steps if step.startswith("ours")]
        theirs = [step for step in steps if step.startswith("huggingface")]
        if ours and theirs:
            found[name] = ratio(timings[best(timings, theirs)], timings[best(timings, ours)])
    return found


def their_contenders(
    a: Arguments, c: Config, batch: Batch, next_sentence: bool
) -> tuple[dict[str, Contender], list[str]]:
    """Returns Hugging Face's, and what of it is left out for want of a compiler.

    Raises: UserError if it has no such model.
    """
    from benchmarks import their_step
    from bertjax.interop.bert import describes

    if not (describes(c.model) and next_sentence):
        raise UserError("--against=huggingface compares BERT with next sentences; leave it out for this config")
    batch, contenders, left_out = unpacked(batch), {}, []
    for precision in a.precisions:
        contenders[f"huggingface_products_{precision}"] = Contender(their_step.their_products, (precision,))
        for way in a.ways:
            if way == "compiled" and not their_step.has_compiler():
                left_out.append(f"torch.compile in {precision}: there is no C++ compiler")
                continue
            contenders[f"huggingface_{way}_{precision}"] = Contender(
                their_step.their_step, (c, batch, precision, way == "compiled")
            )
    return contenders, left_out


def main() -> None:
    """The command."""
    a = command_line.arguments_of(Arguments, __doc__ or "")
    packages = ("jax", "flax", *(("torch", "transformers") if a.against else ()))
    with reported():
        print_result("train_step", measure(a), *packages)


if __name__ == "__main__":
    main()

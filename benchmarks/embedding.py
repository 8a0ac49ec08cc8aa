"""How many texts a second become vectors, and how soon a model answers its first question.

    python -m benchmarks.embedding TEXTS [--size base --count 512 --batch-size 32 --threads 2]

Random weights and a vocabulary of the file's own, a text a line: the time does not depend on what was learned. It
compares `model.embed` with BertModel in PyTorch and the mean over its hidden states, the batches padded to their
longest text, the texts in the order of the file and sorted by length, as sentence-transformers does it; all with their
tokenization, each in a process of its own, in turn. `ratio` is to the faster of theirs, the median over the rounds.
Then it starts `bertjax predict` with an empty compilation cache, and again. Prints a JSON line. Needs the `parity`
extra.

Shape letters: B batch (rows), S position, D width, N texts.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import tyro

import bertjax
from benchmarks.alternation import Contender, Timing, Trial, alternate, best, ratio
from benchmarks.parity import SIZES
from benchmarks.result import print_result
from bertjax import backend
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError, reported


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures texts to vectors against transformers, and the time to the first answer."""

    texts: Annotated[str, tyro.conf.Positional]
    """A file with a text a line, of mixed lengths."""
    size: str = "base"
    """Of tiny, small, wide, deep, long, base."""
    count: int = 512
    """Texts, the first of the file."""
    batch_size: int = 32
    """Texts that transformers reads at a time."""
    repeats: int = 5
    """Times that each is measured."""
    threads: int = 2
    """PyTorch's threads."""


def read_texts(a: Arguments) -> list[str]:
    """Returns the texts. Raises: UserError if there are not so many."""
    texts = [line for line in Path(a.texts).read_text(encoding="utf-8").splitlines() if line.strip()][: a.count]
    if len(texts) < a.count:
        raise UserError(f"{a.texts} has {len(texts)} texts; use --count {len(texts)}")
    return texts


def make_folder(directory: Path, size: str, texts: Sequence[str]) -> Path:
    """Writes a model of that size with random weights, and a tokenizer for the texts, as Hugging Face has them."""
    if size not in SIZES:
        raise UserError(f"size={size!r} is unknown; use one of {', '.join(SIZES)}")
    tokenizer = Tokenizer.train(texts, vocab_size=SIZES[size].config["vocab_size"])
    config = transformers.BertConfig(**SIZES[size].config)
    transformers.BertForMaskedLM(config).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


def their_embedding(folder: Path, batch_size: int, *, by_length: bool) -> Callable[[Sequence[str]], np.ndarray]:
    """Returns a function that makes the texts' vectors, [N, D], with transformers."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    longest = model.config.max_position_embeddings

    def embed(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i])) if by_length else list(range(len(texts)))
        vectors_ND = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            with torch.inference_mode():
                x_BSD = model(**batch).last_hidden_state
            real_BS1 = batch["attention_mask"][..., None]
            vectors_ND[chosen] = ((x_BSD * real_BS1).sum(1) / real_BS1.sum(1)).numpy()
        return vectors_ND

    return embed


def our_trial(folder: Path, texts: Sequence[str]) -> Trial:
    """Returns our embedding of the texts, to be timed."""
    backend.start()
    return trial(functools.partial(bertjax.load(folder).embed, truncate=True), texts)


def their_trial(folder: Path, texts: Sequence[str], batch_size: int, by_length: bool, threads: int) -> Trial:
    """Returns theirs."""
    torch.set_num_threads(threads)
    return trial(their_embedding(folder, batch_size, by_length=by_length), texts)


def trial(embed: Callable[[Sequence[str]], np.ndarray], texts: Sequence[str]) -> Trial:
    """Returns what embeds the texts as often as asked; its facts are the vectors."""
    found: dict[str, Any] = {}

    def run(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            found["vectors"] = embed(texts)
        return time.perf_counter() - started

    return Trial(run, lambda: found)


def check_same(timings: Mapping[str, Timing]) -> None:
    """Raises ValueError if the vectors differ."""
    (first, wanted), *others = ((name, timing.facts["vectors"]) for name, timing in timings.items())
    for name, vectors_ND in others:
        if np.abs(vectors_ND - wanted).max() > 1e-4 * np.abs(wanted).max():
            raise ValueError(f"{name} gives other vectors than {first}")


def first_answers(folder: Path, cache: Path) -> dict[str, float]:
    """Returns the seconds from the start of the command to its answer, with an empty compilation cache and a full."""
    program = "from bertjax.cli import main; main()"
    command = [sys.executable, "-c", program, "predict", "fill-mask", "--model", str(folder), "It is [MASK]."]
    found = {}
    for name in ("cold", "cached"):
        start = time.perf_counter()
        environment = os.environ | {"BERTJAX_CACHE": str(cache)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            answer = process.stdout.readline()
            found[name] = time.perf_counter() - start
        if not answer or process.returncode:
            raise RuntimeError(f"bertjax predict ended with {process.returncode}")
    return found


def measure(a: Arguments, directory: Path) -> dict[str, Any]:
    """Returns all figures; the model is left in the directory."""
    texts = read_texts(a)
    folder = make_folder(directory / "model", a.size, texts)
    timings = alternate(
        {
            "bertjax": Contender(our_trial, (folder, texts)),
            "transformers": Contender(their_trial, (folder, texts, a.batch_size, False, a.threads)),
            "transformers_by_length": Contender(their_trial, (folder, texts, a.batch_size, True, a.threads)),
        },
        rounds=a.repeats,
        turn_seconds=0.0,  # once
    )
    check_same(timings)
    theirs = best(timings, ("transformers", "transformers_by_length"))
    lengths_N = [len(ids) + 2 for ids in Tokenizer.load(folder).encode_batch(texts)]
    return {
        "size": a.size,
        "texts": len(texts),
        "mean_tokens": statistics.mean(lengths_N),
        "longest_tokens": max(lengths_N),
        "texts_per_second": {name: len(texts) / timing.median for name, timing in timings.items()},
        "ratio": ratio(timings[theirs], timings["bertjax"]),
        "ratio_in_file_order": ratio(timings["transformers"], timings["bertjax"]),
        "first_answer_seconds": first_answers(folder, directory / "cache"),
    }


def main() -> None:
    """The command."""
    backend.start()
    transformers.utils.logging.disable_progress_bar()
    a = tyro.cli(Arguments)
    with reported(), tempfile.TemporaryDirectory() as directory:
        print_result("embedding", measure(a, Path(directory)), "jax", "torch", "transformers")


if __name__ == "__main__":
    main()

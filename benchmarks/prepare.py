"""How fast is `bertjax prepare` beside the bare tokenizer of Hugging Face, and how much memory does it take?

    python -m benchmarks.prepare --data FILE --vocab FILE [--rounds 3 --variants ours_2 ... --google SCRIPT]

Bare is `encode_batch_fast` on whole paragraphs that are in memory already, its result thrown away, in one thread and in
two. Ours begins with the file and ends with written shards, pairs made, with one worker and with two; each runs in a
process of its own, and the variants take turns. With the path of google-research/bert's create_pretraining_data.py
(which needs the package six) that script runs, too, on the same documents with our sentences a line, each once. The
figures are those of each variant's fastest run, the one that other work on the machine disturbed least; MB are millions
of bytes of text in UTF-8. Prints one JSON line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks import memory
from benchmarks.result import print_result
from bertjax.data.documents import read_documents
from bertjax.data.sentences import split_sentences
from bertjax.errors import reported

PARAGRAPHS_AT_A_TIME = 1000  # to the bare tokenizer
Figures = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares the speed of preparing a corpus with that of the bare tokenizer."""

    data: str
    """What `bertjax prepare` reads: a file, a folder, a pattern."""
    vocab: str
    """A BERT vocabulary, lower-cased."""
    rounds: int = 3
    """Times that each variant runs."""
    variants: tuple[Literal["bare_1", "bare_2", "ours_1", "ours_2"], ...] = ("bare_1", "bare_2", "ours_1", "ours_2")
    """What runs; the bare ones hold the whole text in memory."""
    google: str | None = None
    """Path of google-research/bert's create_pretraining_data.py, to run that, too."""


def main() -> None:
    """The command. As `VARIANT DATA VOCAB [SCRIPT]` it is one of its own processes."""
    if len(sys.argv) > 3 and sys.argv[1] in VARIANTS:
        print(json.dumps(VARIANTS[sys.argv[1]](*sys.argv[2:])))
        return
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported():
        result = compare(arguments)
    print_result("prepare", result, "tokenizers", "tensorflow-datasets")


def compare(a: Arguments) -> dict[str, Any]:
    """Returns the figures of each variant's fastest run, and the ratios that matter."""
    variants = [*a.variants, *(["google"] if a.google else [])]
    runs = [{variant: _run(variant, a) for variant in variants} for _ in range(a.rounds)]
    size = sum(len(p.encode()) for document in read_documents([a.data]) for p in document.paragraphs) / 1e6
    result: dict[str, Any] = {"data": Path(a.data).name, "megabytes": size, "rounds": a.rounds}
    for variant in variants:
        seconds = [run[variant]["seconds"] for run in runs]
        fastest = runs[seconds.index(min(seconds))][variant]
        result[variant] = {"megabytes_per_second": size / min(seconds), **fastest, "seconds_of_runs": seconds}

    def ratio(slower: str, faster: str, figure: str = "seconds") -> float | None:
        there = slower in variants and faster in variants
        return result[slower][figure] / result[faster][figure] if there else None

    return result | {
        "ours_over_bare": ratio("bare_1", "ours_1"),
        "ours_over_bare_cpu": ratio("bare_1", "ours_1", "cpu_seconds"),
        "ours_over_google": ratio("google", "ours_1"),
        "gain_of_second_core": {"bare": ratio("bare_1", "bare_2"), "ours": ratio("ours_1", "ours_2")},
    }


def _run(variant: str, a: Arguments) -> Figures:
    # One thread of the library's own is faster than the calling one, by a quarter on 100 MB: it has its own heap.
    threads = {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": variant[-1]}
    threads = {} if variant == "google" else threads
    command = [sys.executable, "-m", "benchmarks.prepare", variant, a.data, a.vocab]
    command += [a.google] if variant == "google" and a.google else []
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _bare(data: str, vocab: str) -> Figures:
    from bertjax.data.tokenizer import Tokenizer

    backend = Tokenizer.from_vocab(vocab)._backend
    paragraphs = [paragraph for document in read_documents([data]) for paragraph in document.paragraphs]

    def encode() -> None:
        for start in range(0, len(paragraphs), PARAGRAPHS_AT_A_TIME):
            backend.encode_batch_fast(paragraphs[start : start + PARAGRAPHS_AT_A_TIME], add_special_tokens=False)

    return _measured(encode)


def _ours(workers: int) -> Callable[[str, str], Figures]:
    def prepare_data(data: str, vocab: str) -> Figures:
        from bertjax.data.prepare import prepare
        from bertjax.data.settings import PrepareConfig

        with _scratch() as output:
            config = PrepareConfig(output, vocab=vocab, workers=workers)
            return _measured(lambda: prepare(config, [data]))

    return prepare_data


def _google(data: str, vocab: str, script: str) -> Figures:
    with _scratch() as text:
        with open(text, "w", encoding="utf-8") as file:
            for document in read_documents([data]):
                sentences = (s for p in document.paragraphs for s in split_sentences(p.encode()))
                file.writelines(" ".join(sentence.split()) + "\n" for sentence in sentences)
                file.write("\n")
        command = [sys.executable, "-m", "benchmarks.google_script", script, "--dupe_factor=1"]
        files = [f"--input_file={text}", f"--output_file={text}.records", f"--vocab_file={vocab}"]
        return _measured(lambda: subprocess.run([*command, *files], check=True))


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/corpus"


def _measured(work: Callable[[], object]) -> Figures:
    """Returns seconds of the clock and of processors, and the most memory of this process and of its largest worker."""
    start, cpu = time.perf_counter(), _cpu_seconds()
    work()
    seconds, cpu_seconds = time.perf_counter() - start, _cpu_seconds() - cpu
    own, workers = memory.peak_bytes(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    memories = {"gigabytes": own / 1e9, "gigabytes_of_a_worker": workers / 1e9}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds} | memories


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


VARIANTS: dict[str, Callable[..., Figures]] = {
    "bare_1": _bare,
    "bare_2": _bare,
    "ours_1": _ours(1),
    "ours_2": _ours(2),
    "google": _google,
}

if __name__ == "__main__":
    main()

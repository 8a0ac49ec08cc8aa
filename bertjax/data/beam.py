"""The shards of a corpus, written on an Apache Beam runner: Dataflow, Flink, Spark, this machine (extra `beam`).

The blocks are those of a run on one machine, and so are the shards, byte for byte. A first pipeline measures the
documents of each file; this process cuts them into blocks, which takes a place and a size of each document and no text;
a second pipeline brings the documents of each block together and writes its shards. What the pipelines find out lies
in the output's folder beside the shards, so all workers have to see it, and the files, under the same paths.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.blocks import SPLITS, Block
from bertjax.data.documents import EncodedDocument, EncodingErrors, read_documents
from bertjax.data.shards import Shard, ShardOptions, kept_shards, write_shards, write_shards_once
from bertjax.errors import UserError


class Stub(NamedTuple):
    """Stands for a document while blocks are cut."""

    file: int
    number: int
    place: float
    size: int


Cut = Callable[[Iterable[Stub]], Iterator[Block[Stub]]]
Keyed = tuple[int, tuple[int, int, EncodedDocument]]
"""The number of its block, and a document with the numbers of its file and within it."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a worker needs to read a file."""

    files: tuple[str, ...]
    encoding_errors: EncodingErrors
    skip_bad_lines: bool
    directory: str
    """Where what is found out about the files lies."""

    def note(self, file: int) -> Path:
        """Returns where the places and sizes of a file's documents are."""
        return Path(self.directory) / f"{file:06d}.npz"

    def blocks(self, file: int) -> Path:
        """Returns where the blocks of a file's documents are."""
        return Path(self.directory) / f"{file:06d}.blocks.npy"

    def documents(self, file: int, skipped: Counter[str]) -> Iterator[EncodedDocument]:
        """Yields a file's documents, and counts the lines that are skipped."""

        def skip(_: UserError) -> None:
            skipped["lines"] += 1

        found = read_documents([self.files[file]], self.encoding_errors, skip if self.skip_bad_lines else None)
        return (document.encoded() for document in found)


def write_shards_on_beam(
    pipeline: str, reading: Reading, cut: Cut, options: Sequence[ShardOptions], skipped: Counter[str]
) -> Iterator[list[Shard]]:
    """Yields the shards of each block, one of each of the options, and counts the lines that are skipped.

    `pipeline` are Beam's own options, as on a command line.

    Raises: UserError as reading and writing do on one machine, if Beam is not installed, and if a file changes.
    """
    Path(reading.directory).mkdir(exist_ok=True)
    _run(pipeline, range(len(reading.files)), functools.partial(_measure, reading))
    for file in range(len(reading.files)):
        with np.load(reading.note(file)) as note:
            skipped["lines"] += int(note["skipped"])
    blocks = _save_blocks(reading, cut)
    write = functools.partial(_write_block, list(options))
    _run(pipeline, range(len(reading.files)), functools.partial(_keyed_documents, reading), write)
    for split, count in zip(SPLITS, blocks, strict=True):
        for number in range(count):
            yield kept_shards(options, Block(split, number, [], 0))
    shutil.rmtree(reading.directory)


def _run(
    pipeline: str,
    files: Sequence[int],
    read: Callable[[int], Iterable[Keyed]],
    write: Callable[[tuple[int, Iterable[Any]]], None] | None = None,
) -> None:
    """Reads the files on the runner, and writes what belongs together if there is something to write."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f"beam={pipeline!r} needs an extra: pip install 'bertjax[beam]'") from error
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # the error is raised here, too
    try:
        runner = beam.Pipeline(options=PipelineOptions(shlex.split(pipeline)))
    except ValueError as error:
        raise UserError(f"beam={pipeline!r}: {error}") from error
    with runner as p:
        found = p | beam.Create(files) | beam.Reshuffle() | "read files" >> beam.FlatMap(read)
        if write:
            _ = found | beam.GroupByKey() | "write shards" >> beam.Map(write)


def _measure(reading: Reading, file: int) -> Iterator[Keyed]:
    """Saves where the documents of a file belong and how large they are; yields nothing."""
    skipped: Counter[str] = Counter()
    measured = [(document.place, document.size) for document in reading.documents(file, skipped)]
    places_N, sizes_N = np.array(measured, np.float64).reshape(-1, 2).T
    np.savez(reading.note(file), places=places_N, sizes=sizes_N.astype(np.int64), skipped=skipped.total())
    yield from ()


def _stubs(reading: Reading, blocks_FN: list[np.ndarray]) -> Iterator[Stub]:
    """Yields what stands for the documents of all files; before those of a file it adds room for their blocks."""
    for file in range(len(reading.files)):
        with np.load(reading.note(file)) as note:
            places_N, sizes_N = note["places"], note["sizes"]
        blocks_FN.append(np.zeros(len(places_N), np.int64))
        for number, (place, size) in enumerate(zip(places_N, sizes_N, strict=True)):
            yield Stub(file, number, float(place), int(size))


def _save_blocks(reading: Reading, cut: Cut) -> list[int]:
    """Saves the number of each document's block, counted through both splits in turn; returns how many each has."""
    blocks_FN: list[np.ndarray] = []  # 8 bytes a document; all else is of one file at a time
    counts: Counter[str] = Counter()
    for block in cut(_stubs(reading, blocks_FN)):
        counts[block.split] += 1
        for stub in block.documents:
            blocks_FN[stub.file][stub.number] = block.number * len(SPLITS) + SPLITS.index(block.split)
    for file, blocks_N in enumerate(blocks_FN):
        np.save(reading.blocks(file), blocks_N)
    print(f"{counts.total()} blocks of {len(reading.files)} files", file=sys.stderr)
    return [counts[split] for split in SPLITS]


def _keyed_documents(reading: Reading, file: int) -> Iterator[Keyed]:
    blocks_N = np.load(reading.blocks(file)).tolist()
    for number, document in enumerate(reading.documents(file, Counter())):
        if number == len(blocks_N):
            raise UserError(f"{reading.files[file]} changed while the corpus was prepared from it")
        yield blocks_N[number], (file, number, document)


def _write_block(options: list[ShardOptions], keyed: tuple[int, Iterable[tuple[int, int, EncodedDocument]]]) -> None:
    key, found = keyed
    number, split = divmod(key, len(SPLITS))
    documents = [document for _, _, document in sorted(found, key=lambda one: one[:2])]
    block = Block(SPLITS[split], number, documents, sum(document.size for document in documents))
    write_shards_once(write_shards, options, block)

"""From text files to a prepared corpus: a directory with the rows as a TFDS dataset, the tokenizer and a manifest.

    dataset_info.json, features.json, corpus-SPLIT.array_record-I-of-N    what `tfds.builder_from_directory` reads
    tokenizer/                                                            what `Tokenizer.load` and Hugging Face read
    manifest.json                                                         settings, sources, counts
    token_counts.npy                                                      int64 [V], ids in the training rows

Several lengths of rows are prepared from one tokenization, each in a directory of its own, named by the length; it is
the same as if that length alone were prepared. A corpus is the same, byte for byte, for any number of workers and of
interruptions, and complete or not there at all.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bertjax
from bertjax.data.beam import Reading, write_shards_on_beam
from bertjax.data.blocks import Block, D, blocks_from_documents
from bertjax.data.corpus import MANIFEST_VERSION, Manifest, open_corpus
from bertjax.data.documents import DECOMPRESSORS, Skip, find_files, read_documents
from bertjax.data.google_records import google_records, record_length, write_record_shards
from bertjax.data.manifest import Collected, complete
from bertjax.data.partial import partial_directory, remove_notes
from bertjax.data.settings import PrepareConfig
from bertjax.data.shards import Shard, ShardOptions, WriteShards, write_shards, write_shards_once
from bertjax.data.sources import check_unchanged, describe_sources, with_standard_input
from bertjax.data.tfrecords import is_tfrecords
from bertjax.data.tokenizer import Tokenizer
from bertjax.data.workers import map_in_order
from bertjax.errors import UserError

BLOCK_SIZES = 1_000_000, 4_000_000  # bytes of text, least and most; between them a part of the whole
COMPRESSION = 4  # text takes about so many times the bytes of its compressed file
BLOCKS = 32  # of a corpus of middle size, so that the last ones keep all workers busy
SKIPPED_SHOWN = 3  # bad lines that are said, of those that are counted
BLOCKS_FOR_WORKERS = 8  # fewer are not worth the start of processes
VOCABULARY_TEXT = 200_000_000  # bytes of text that a vocabulary is learned from


def prepare(config: PrepareConfig, inputs: Sequence[str | Path]) -> tuple[Manifest, ...]:
    """Prepares a corpus for each length in `config.output`, unless it is there already, and returns their manifests.

    Raises: UserError for what is wrong with the inputs, the vocabulary, or a directory that holds something else.
    """
    output = Path(os.path.realpath(config.output))
    with with_standard_input(inputs, config.input_format, output.parent) as named:
        files = find_files(named)
        return _prepare(_for_records(config, files) if any(map(is_tfrecords, files)) else config, files, output)


def _for_records(config: PrepareConfig, files: list[Path]) -> PrepareConfig:
    """Returns the settings for files of records, whose pairs and their length were decided when they were made."""
    texts = [path for path in files if not is_tfrecords(path)]
    if texts:
        raise UserError(f"{texts[0]} is text, and other inputs are TFRecord files of pairs; prepare them apart")
    if config.beam is not None:
        raise UserError(f"beam={config.beam!r}, but {files[0]} holds pairs that are made; leave it out")
    if config.vocab is None:
        raise UserError(f"{files[0]} holds ids; name the vocabulary that it was made with by --vocab")
    made = {name: getattr(PrepareConfig, name) for name in ("passes", "next_sentence", "short_share")}
    made["seq_len"] = record_length(files)
    changed = [
        f"{n}={getattr(config, n)}" for n in made if getattr(config, n) not in (made[n], getattr(PrepareConfig, n))
    ]
    if changed:
        raise UserError(
            f"{', '.join(changed)} cannot be had of {files[0]}, whose pairs are made, of {made['seq_len']} positions;"
            " leave it out"
        )
    return dataclasses.replace(config, **made)


def _prepare(config: PrepareConfig, files: list[Path], output: Path) -> tuple[Manifest, ...]:
    sources = describe_sources(files)
    given = Tokenizer.from_vocab(config.vocab, cased=config.cased) if config.vocab else None
    identity = {
        "version": MANIFEST_VERSION,
        "settings": _settings(config, given),
        "sources": [s.manifest for s in sources],
    }
    if output.exists() and any(output.iterdir()):
        return _existing(config, output, identity)
    if os.path.ismount(output):
        raise UserError(
            f"{output} is a mount point, which no finished corpus can take the place of; choose a folder in it, such as"
            f" {output / 'corpus'}"
        )
    writer = {"bertjax": bertjax.__version__, "unicode": unicodedata.unidata_version, "blocks": BLOCK_SIZES}
    with partial_directory(output, identity | writer) as partial:
        directories = config.directories(partial)
        tokenizer = _tokenizer(config, given, files, list(directories.values()))
        skipped: Counter[str] = Counter()
        written = _write_shards(config, files, directories, tokenizer, skipped)
        collected = {n: Collected(tokenizer) for n in directories}
        for shards in _with_progress(written, _size_of_text(files)):
            for n, shard in zip(directories, shards, strict=True):
                collected[n].add(shard)
        check_unchanged(sources)
        made_of = identity | {"skipped_lines": skipped.total()}
        manifests = tuple(
            complete(path, _of_length(made_of, n), collected[n], tokenizer) for n, path in directories.items()
        )
        os.rename(partial, output)
        remove_notes(output)  # only now: if anything before fails, the next run goes on with the shards
    return manifests


def _of_length(manifest: Manifest, seq_len: int) -> Manifest:
    """Returns what the manifest would be if this length alone were prepared."""
    return manifest | {"settings": manifest["settings"] | {"seq_len": seq_len}}


def _settings(config: PrepareConfig, given: Tokenizer | None) -> dict[str, Any]:
    """Returns what decides about the rows besides the sources."""
    settings = dataclasses.asdict(config)
    for where_and_how in ("output", "workers", "beam", "input_format"):
        del settings[where_and_how]
    settings["seq_len"] = config.lengths
    if given is not None:
        settings["vocab"] = given.fingerprint
    return settings


def _existing(config: PrepareConfig, output: Path, identity: Manifest) -> tuple[Manifest, ...]:
    directories = config.directories(output)
    for n, directory in directories.items():
        if not (directory / "manifest.json").exists():
            raise UserError(
                f"{output} is not empty and holds no prepared corpus of {n} positions; choose another --output"
            )
    manifests = tuple(_checked_existing(path, _of_length(identity, n)) for n, path in directories.items())
    remove_notes(output)  # of a run that was killed before it could
    print(f"already prepared: {output}", file=sys.stderr)
    return manifests


def _checked_existing(output: Path, identity: Manifest) -> Manifest:
    manifest = open_corpus(output).manifest
    old, new = ({**m["settings"], "sources": m["sources"]} for m in (manifest, identity))
    different = [key for key in new if old.get(key) != new[key]]
    if different:
        raise UserError(
            f"{output} holds a corpus prepared with other {', '.join(different)}; choose another --output, or remove it"
        )
    return manifest


def _tokenizer(config: PrepareConfig, given: Tokenizer | None, files: list[Path], directories: list[Path]) -> Tokenizer:
    """Returns the tokenizer, which is also in each of the directories, possibly by an earlier run."""
    first = directories[0] / "tokenizer"
    tokenizer = Tokenizer.load(first) if first.exists() else given or _learned(config, files)
    for directory in directories:
        if not (directory / "tokenizer").exists():
            tokenizer.save(directory / "tokenizer.unfinished")
            os.rename(directory / "tokenizer.unfinished", directory / "tokenizer")
    return tokenizer


def _learned(config: PrepareConfig, files: list[Path]) -> Tokenizer:
    print(f"learning a vocabulary from at most {VOCABULARY_TEXT // 1_000_000} MB of text", file=sys.stderr)
    documents = read_documents(files, config.encoding_errors, _skip(config, Counter(), shown=0))
    texts = _take_text((paragraph for document in documents for paragraph in document.paragraphs), VOCABULARY_TEXT)
    return Tokenizer.train(texts, vocab_size=config.vocab_size, cased=config.cased)


def _take_text(paragraphs: Iterable[str], size: int) -> Iterator[str]:
    for paragraph in paragraphs:
        yield paragraph
        size -= len(paragraph.encode())
        if size <= 0:
            return


def _write_shards(
    config: PrepareConfig,
    files: list[Path],
    directories: Mapping[int, Path],
    tokenizer: Tokenizer,
    skipped: Counter[str],
) -> Iterator[list[Shard]]:
    """Yields the shards of each block, one of each length, as they are written, and counts the lines skipped."""
    options = [_shard_options(config, n, path, tokenizer) for n, path in directories.items()]
    workers = _workers(config, files)
    cut = functools.partial(
        blocks_from_documents, validation_share=config.validation_share, block_size=_block_size(files)
    )
    least = 2 if config.next_sentence else 1
    if is_tfrecords(files[0]):
        yield from _in_workers(write_record_shards, options, cut(google_records(files), least=1), workers)
    elif config.beam is not None:
        scratch = next(iter(directories.values())) / "beam"
        reading = Reading(tuple(map(str, files)), config.encoding_errors, config.skip_bad_lines, str(scratch))
        yield from write_shards_on_beam(config.beam, reading, functools.partial(cut, least=least), options, skipped)
    else:
        documents = read_documents(files, config.encoding_errors, _skip(config, skipped))
        encoded = (document.encoded() for document in documents)
        yield from _in_workers(write_shards, options, cut(encoded, least=least), workers)


def _shard_options(config: PrepareConfig, seq_len: int, directory: Path, tokenizer: Tokenizer) -> ShardOptions:
    return ShardOptions(
        directory=str(directory),
        vocabulary=tokenizer.fingerprint,
        seq_len=seq_len,
        pairs_per_row=config.pairs_per_row,
        passes=config.passes,
        next_sentence=config.next_sentence,
        short_share=config.short_share,
        seed=config.seed,
    )


def _in_workers(
    write: WriteShards[D], options: list[ShardOptions], blocks: Iterator[Block[D]], workers: int
) -> Iterator[list[Shard]]:
    yield from map_in_order(functools.partial(write_shards_once, write, options), blocks, workers)


def _skip(config: PrepareConfig, skipped: Counter[str], shown: int = SKIPPED_SHOWN) -> Skip | None:
    def skip(error: UserError) -> None:
        skipped["lines"] += 1
        if skipped["lines"] <= shown:
            print(f"skipped {error}", file=sys.stderr)

    return skip if config.skip_bad_lines else None


def _workers(config: PrepareConfig, files: list[Path]) -> int:
    if _size_of_text(files) < BLOCKS_FOR_WORKERS * _block_size(files):
        return 1
    return config.workers or len(os.sched_getaffinity(0))


def _block_size(files: list[Path]) -> int:
    least, most = BLOCK_SIZES
    return min(most, max(least, _size_of_text(files) // BLOCKS))


def _size_of_text(files: list[Path]) -> int:
    """Returns about how many bytes of text there are."""
    return sum(path.stat().st_size * (COMPRESSION if path.suffix in DECOMPRESSORS else 1) for path in files)


def _with_progress(written: Iterable[list[Shard]], total: int) -> Iterator[list[Shard]]:
    """Passes the shards on and says on stderr how far they are."""
    start, said = time.monotonic(), 0.0
    counts: Counter[str] = Counter()
    for shards in written:
        counts.update({name: shards[0].counts[name] for name in ("bytes", "documents")})  # in each length the same
        counts["rows"] += sum(shard.rows for shard in shards)
        seconds = time.monotonic() - start
        if seconds - said >= 5:  # seconds between lines
            said = seconds
            left = max(0, total / counts["bytes"] - 1) * seconds
            print(f"{_progress(counts, seconds)}, about {left:.0f} s left", file=sys.stderr)
        yield shards
    print(_progress(counts, time.monotonic() - start), file=sys.stderr)


def _progress(counts: Counter[str], seconds: float) -> str:
    size = counts["bytes"] / 1e6
    return f"prepared {size:.1f} MB, {counts['documents']} documents, {counts['rows']} rows, {size / seconds:.2f} MB/s"

"""The files that a corpus is made from, known by their content."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data.checksums import checksum
from bertjax.errors import UserError


class Source(NamedTuple):
    """A file, and what it was when the run began."""

    path: Path
    modified: int
    """Nanoseconds."""
    manifest: dict[str, Any]
    """What the manifest says of it."""


@contextlib.contextmanager
def with_standard_input(
    inputs: Sequence[str | Path], input_format: str | None, directory: Path
) -> Iterator[list[str | Path]]:
    """Gives the inputs with a file in place of `-`: text is read twice, and must be the same when a run goes on.

    Raises: UserError if the form of standard input is not given.
    """
    if "-" not in inputs:
        yield list(inputs)
        return
    if input_format is None:
        raise UserError("standard input (-) has no name that tells its form; give --input-format txt or jsonl")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".standard-input-") as copies:
        copy = Path(copies) / f"standard-input.{input_format}"
        with copy.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield [copy if name == "-" else name for name in inputs]


def describe_sources(files: Iterable[Path]) -> list[Source]:
    """Returns the files with their sizes and hashes; reads them once."""
    return [_describe(path) for path in files]


def _describe(path: Path) -> Source:
    before = path.stat()
    described = {"name": path.name, "bytes": before.st_size, "blake2b": checksum(path)}
    return Source(path, before.st_mtime_ns, described)


def check_unchanged(sources: Iterable[Source]) -> None:
    """Raises UserError, with their names, if any of the files was written to since it was described."""
    changed = [str(source.path) for source in sources if not _is_unchanged(source)]
    if changed:
        raise UserError(
            f"{', '.join(changed)} changed while the corpus was prepared from it; run again when nothing writes to it"
        )


def _is_unchanged(source: Source) -> bool:
    if not source.path.is_file():
        return False
    now = source.path.stat()
    return (now.st_size, now.st_mtime_ns) == (source.manifest["bytes"], source.modified)

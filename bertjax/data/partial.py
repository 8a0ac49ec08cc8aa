"""The directory in which a corpus grows: one run at a time, and what is finished outlives a run that was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bertjax.data.shards import NOTE
from bertjax.errors import UserError

_IDENTITY = "identity.json"


@contextlib.contextmanager
def partial_directory(output: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Gives the directory beside `output`, with the finished shards of an earlier run of the same identity only.

    It is removed if there are none when the run fails, and else kept.

    Raises: UserError if another run has it.
    """
    partial = output.with_name(f"{output.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock(lock, output)
        _clear_unless(partial, json.dumps(identity, sort_keys=True))
        try:
            yield partial
        finally:
            if _finished(partial):
                print(f"finished shards are kept in {partial}; the same command goes on with them", file=sys.stderr)
            else:
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def remove_notes(corpus: Path) -> None:
    """Removes from a complete corpus what was there for the next run."""
    for path in (*corpus.glob(_IDENTITY), *_finished(corpus)):
        path.unlink(missing_ok=True)  # of two runs that find them


def _lock(directory: int, output: Path) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
    except BlockingIOError as error:
        raise UserError(f"another run is preparing {output}; wait for it, or choose another --output") from error


def _clear_unless(partial: Path, identity: str) -> None:
    path = partial / _IDENTITY
    if path.exists() and path.read_text(encoding="utf-8") == identity:
        for shard in partial.rglob("corpus-*.array_record-*-of-*"):  # of a run that failed when it had named them
            shard.rename(shard.with_name(shard.name.rpartition("-of-")[0]))
        print(f"going on with {len(_finished(partial))} finished shards in {partial}", file=sys.stderr)
        return
    for leftover in partial.iterdir():  # of a run with other settings or sources
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    path.write_text(identity, encoding="utf-8")


def _finished(partial: Path) -> list[Path]:
    return list(partial.rglob(f"*{NOTE}"))

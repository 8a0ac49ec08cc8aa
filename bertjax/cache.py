"""Where things are kept that can be made again."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def directory() -> Path:
    """Returns $BERTJAX_CACHE, or ~/.cache/bertjax."""
    return Path(os.environ.get("BERTJAX_CACHE") or Path.home() / ".cache" / "bertjax")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keeps a folder, made if need be, to one process at a time; the others wait."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the process, however that ends
        yield
    finally:
        os.close(lock)

"""A hash of a file's content, by which sources and shards are known."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def checksum(path: Path) -> str:
    """Returns 128 bits of BLAKE2b of the file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=16)).hexdigest()

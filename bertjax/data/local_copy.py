"""A corpus copied to a disk of the machine's own, once for all processes and runs there."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from etils import epath

from bertjax import cache
from bertjax.data.corpus import damaged_shards
from bertjax.errors import UserError

WHOLE = ".whole"  # beside the copy, when it is complete


def local_copy(corpus: str, directory: str | Path) -> Path:
    """Returns the folder in `directory` that holds what `corpus` does, copied there if it is not yet.

    `corpus` is anything that etils.epath opens, such as gs://BUCKET/CORPUS where gcsfs is installed. Copies are known
    by a hash of the manifest; what a killed process has copied is completed. Of several processes one copies, the
    others wait.

    Raises: UserError if there is no corpus, or a shard of it is not what was written.
    """
    source = epath.Path(corpus)
    manifest = source / "manifest.json"
    if not manifest.exists():
        raise UserError(f"{corpus} holds no prepared corpus (no manifest.json); run `bertjax prepare`")
    copy = Path(directory) / hashlib.blake2b(manifest.read_bytes(), digest_size=16).hexdigest()
    with cache.locked(copy):
        if not (copy / WHOLE).exists():
            print(f"copying {corpus} to {copy}", file=sys.stderr)
            _copy_whole(source, copy)
            (copy / WHOLE).touch()
    return copy


def _copy_whole(source: epath.Path, copy: Path) -> None:
    """Copies what is missing, and once more the shards that are not what was written, of this copy or an earlier one.

    Raises: UserError if they are no better then.
    """
    for _ in range(2):
        _copy_missing(source, copy)
        damaged = damaged_shards(copy)
        for path in damaged:
            path.unlink(missing_ok=True)
        if not damaged:
            return
    names = ", ".join(str(source / path.name) for path in damaged)
    raise UserError(f"{names} is not what was written; prepare the corpus again")


def _copy_missing(source: epath.Path, copy: Path) -> None:
    copy.mkdir(exist_ok=True)
    for path in source.iterdir():
        there = copy / path.name
        if path.is_dir():
            _copy_missing(path, there)
        elif not there.exists():
            unfinished = there.with_name(f"{there.name}.unfinished")
            path.copy(unfinished, overwrite=True)
            unfinished.rename(there)

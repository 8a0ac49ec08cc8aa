"""A run's folder, wherever it is. An object store, such as gs://BUCKET/RUN, takes whole files: nothing is appended.

Orbax writes checkpoints there by itself. All else that a run writes is small; it is kept in a folder on a disk, which
is filled from the store when a run begins, and copied to it with each checkpoint and at the end.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from bertjax import hosts
from bertjax.errors import UserError

STORES = ("gs://", "s3://", "az://")


class Folder:
    """The folder of a run."""

    def __init__(self, path: epath.PathLike, files: Path | None = None):
        """Takes where the run is, and where on a disk its files are, if that is another place."""
        self.path, self.files = epath.Path(path), files or Path(path)
        self._sent: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Copies the files of the store, but no checkpoints, to the disk."""
        for file in self._files(self.path):
            copy = self.files / file.relative_to(self.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            file.copy(copy, overwrite=True)
            self._sent[copy] = _state(copy)

    def send(self) -> None:
        """Copies to the store what changed on the disk. Of several processes, only the first has anything to send."""
        if is_on_disk(self.path) or not hosts.is_first():
            return
        for file in self._files(epath.Path(self.files)):
            state = _state(Path(file))
            if self._sent.get(Path(file)) != state:
                copy = self.path / file.relative_to(self.files)
                copy.parent.mkdir(parents=True, exist_ok=True)
                file.copy(copy, overwrite=True)
                self._sent[Path(file)] = state

    def share(self, name: str) -> None:
        """Returns when every process is here, and has the files of the first; `name` tells the places apart."""
        self.send()
        hosts.wait_for_all(name)
        if not (is_on_disk(self.path) or hosts.is_first()):
            self.fetch()

    def _files(self, root: epath.Path) -> Iterator[epath.Path]:
        for file in root.iterdir() if root.is_dir() else ():
            if file.is_dir():
                if file.name not in ("checkpoints", "damaged"):
                    yield from self._files(file)
            elif file.name != "lock":
                yield file


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Folder]:
    """Yields the folder of a run, new or begun before.

    Raises: UserError if it is in a store that is not known, or what reads and writes such a store is not installed.
    """
    if is_on_disk(path):
        yield Folder(path)
        return
    if not str(path).startswith(STORES):
        raise UserError(f"{path} is in no object store that is known; use {', '.join(STORES)}, or a folder on a disk")
    with tempfile.TemporaryDirectory(prefix="bertjax-") as temporary:
        with _installed(path):
            folder = Folder(path, Path(temporary) / epath.Path(path).name)
            folder.fetch()
        try:
            yield folder
        finally:
            folder.send()


def is_on_disk(path: epath.PathLike) -> bool:
    """Returns whether a path is one of the machine's own, mounted ones too, and not that of an object store."""
    return "://" not in str(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns the path, which no longer depends on where the process is."""
    return epath.Path(path).absolute() if is_on_disk(path) else epath.Path(path)


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def _installed(path: str | Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{path}: {error}; install what reads and writes such paths: pip install gcsfs (gs://) or s3fs (s3://)"
        ) from error

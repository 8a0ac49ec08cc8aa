"""Documents from text files: `.txt` and `.jsonl`, plain or compressed, read as a stream."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import zstandard

from bertjax.data.blocks import place_of
from bertjax.data.tfrecords import is_tfrecords
from bertjax.errors import UserError

Decompressor = Callable[[BinaryIO], Any]  # Any: each library has a file class of its own
EncodingErrors = Literal["strict", "replace"]
Skip = Callable[[UserError], object]

TFDS = "tfds:"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """A text whose next sentences follow each other. Documents of one group land in the same split."""

    paragraphs: tuple[str, ...]
    group: str | None = None

    def encoded(self) -> EncodedDocument:
        """Returns it as it is kept while others are read."""
        return EncodedDocument(tuple(paragraph.encode() for paragraph in self.paragraphs), self.group)


class EncodedDocument(NamedTuple):
    """A document in UTF-8: for one emoji in it, text takes four bytes a character."""

    paragraphs: tuple[bytes, ...]
    group: str | None = None

    @property
    def place(self) -> float:
        """Where it is among all, by its group or its text."""
        return place_of(b"\n".join(self.paragraphs), self.group)

    @property
    def size(self) -> int:
        """Bytes of the text, its paragraphs in lines."""
        return sum(map(len, self.paragraphs)) + len(self.paragraphs) - 1


class Line(NamedTuple):
    """A decoded line and where it stands, for messages."""

    text: str
    where: str
    end: str
    """The line feed, and a carriage return before it; there may be none."""


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Returns the files that files, directories (their files of a known suffix) and patterns stand for, in order.

    `tfds:NAME` stands for the shards of a data set of TFDS.

    Raises: UserError if one of them matches nothing or a file has an unknown suffix.
    """
    files = [file for path in paths for file in _matches(path)]
    if not files:
        raise UserError("no input files were given; name files, directories or patterns")
    for file in files:
        if not _is_shard(file) and not is_tfrecords(file):
            _format_of(file)
    return files


def read_documents(
    paths: Sequence[str | Path],
    encoding_errors: EncodingErrors = "strict",
    skip: Skip | None = None,
) -> Iterator[Document]:
    """Yields the documents of the files in order; those without text are left out.

    `.txt`: a line is a paragraph, a blank line ends the document. `.jsonl`: a line is a document, {"text": str} with a
    paragraph a line or {"paragraphs": [str]}, and possibly "group": str; other keys are not read. A line of another
    form goes to `skip`, if that is given.

    Raises: UserError, with file and position, for what is not text, not such JSON, or damaged.
    """
    for path in find_files(paths):
        for document in _read_file(path, encoding_errors, skip or _refuse):
            if document.paragraphs:
                yield document


def _read_file(path: Path, encoding_errors: EncodingErrors, skip: Skip) -> Iterator[Document]:
    if _is_shard(path):
        from bertjax.data import tfds_text  # imports TFDS, which takes a while

        for text in tfds_text.read_texts(path):
            yield Document(tuple(_stripped(text.split("\n"), str(path))))
        return
    yield from _format_of(path)(lines_of(path, encoding_errors), skip)


def _is_shard(path: Path) -> bool:
    """Returns whether the file has the name of an ArrayRecord shard."""
    return path.suffix.startswith(".array_record")


def _refuse(error: UserError) -> None:
    raise error


def _matches(name: str | Path) -> list[Path]:
    if str(name).startswith(TFDS):
        from bertjax.data import tfds_text

        return tfds_text.shards_of(str(name).removeprefix(TFDS))
    path = Path(name)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and suffix_of(file) in FORMATS]
    elif path.exists() or not glob.has_magic(str(path)):
        found = [path]
    else:
        found = [Path(match) for match in glob.glob(str(path), recursive=True) if os.path.isfile(match)]
    if not found:
        raise UserError(f"{path} holds no text files; known are {', '.join(KNOWN_SUFFIXES)}")
    if not all(file.is_file() for file in found):
        raise UserError(f"{path} does not exist; name a file, a directory or a pattern that does")
    return sorted(found)


def suffix_of(path: Path) -> str:
    """Returns the suffix of a file's name, before that of its compression."""
    return Path(path.stem).suffix if path.suffix in DECOMPRESSORS else path.suffix


def _format_of(path: Path) -> Callable[[Iterator[Line], Skip], Iterator[Document]]:
    if suffix_of(path) not in FORMATS:
        raise UserError(f"{path} is no kind of file that can be read; known are {', '.join(KNOWN_SUFFIXES)}")
    return FORMATS[suffix_of(path)]


def lines_of(path: Path, encoding_errors: EncodingErrors = "strict") -> Iterator[Line]:
    """Yields the lines of a file, plain or compressed. Raises: UserError, as `lines`."""
    with path.open("rb") as raw, DECOMPRESSORS.get(path.suffix, _plain)(raw) as stream:
        yield from lines(path, stream, encoding_errors)


def lines(path: Path, stream: BinaryIO, encoding_errors: EncodingErrors) -> Iterator[Line]:
    """Yields the lines of an open file. Raises: UserError, with the place, if it is not UTF-8 or is cut off."""
    offset = number = 0
    try:
        for line in stream:
            number += 1
            start = len(BYTE_ORDER_MARK) if number == 1 and line.startswith(BYTE_ORDER_MARK) else 0
            try:
                end = "\r\n" if line.endswith(b"\r\n") else "\n" if line.endswith(b"\n") else ""
                text = str(memoryview(line)[start : len(line) - len(end)], "utf-8", encoding_errors)
            except UnicodeDecodeError as error:
                place = start + error.start
                raise UserError(
                    f"{path}:{number}: byte 0x{line[place]:02x} at offset {offset + place} is not UTF-8 text;"
                    " convert the file (`bertjax prepare` can go on with --encoding-errors=replace)"
                ) from error
            offset += len(line)
            del line  # a line may have 100 MB, and its text four times as many: nothing is there twice
            yield Line(text, f"{path}:{number}", end)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError) as error:
        raise UserError(f"{path} is damaged or cut off ({error}); fetch it again") from error
    except OSError as error:
        if error.errno is None:  # bz2 reports damage as an OSError without a number
            raise UserError(f"{path} is damaged or cut off ({error}); fetch it again") from error
        raise


def _documents_from_text(lines: Iterator[Line], skip: Skip) -> Iterator[Document]:  # noqa: ARG001 - every line is text
    paragraphs: list[str] = []
    for paragraph in (line.text.strip() for line in lines):  # no name keeps what was not stripped
        if paragraph:
            paragraphs.append(paragraph)
        elif paragraphs:
            yield Document(tuple(paragraphs))
            paragraphs = []
    yield Document(tuple(paragraphs))


def _documents_from_jsonl(lines: Iterator[Line], skip: Skip) -> Iterator[Document]:
    for line in lines:
        if line.text.strip():
            try:
                document = _document_from_json(line)
            except UserError as error:
                skip(error)
            else:
                yield document


def _document_from_json(line: Line) -> Document:
    try:
        value = json.loads(line.text)
    except ValueError as error:
        raise UserError(f"{line.where}: not JSON ({error}); every line must be an object such as {EXAMPLE}") from error
    if not isinstance(value, dict) or ("text" in value) == ("paragraphs" in value):
        raise UserError(f'{line.where}: need an object with either "text" or "paragraphs", such as {EXAMPLE}')
    paragraphs = value["text"].split("\n") if isinstance(value.get("text"), str) else value.get("paragraphs")
    if not isinstance(paragraphs, list) or not all(isinstance(paragraph, str) for paragraph in paragraphs):
        raise UserError(f'{line.where}: "text" must be a string, "paragraphs" a list of strings, such as {EXAMPLE}')
    return Document(tuple(_stripped(paragraphs, line.where)), _group(value, line.where))


def _stripped(paragraphs: list[str], where: str) -> Iterator[str]:
    for paragraph in map(str.strip, paragraphs):
        check_whole(paragraph, where)
        if paragraph:
            yield paragraph


def check_whole(text: str, where: str) -> None:
    """Raises UserError if the text holds half of a surrogate pair, which JSON can spell and no file can hold."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in set(text)):
        raise UserError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff); write whole characters")


def _group(value: dict[str, Any], where: str) -> str | None:
    group = value.get("group")
    if group is not None and not isinstance(group, str):
        raise UserError(f'{where}: "group" must be a string, not {group!r}')
    return group


class _ZstdFrames(io.RawIOBase):
    """The text of zstd frames; unlike the library's own reader it raises EOFError on a file that is cut off."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = self._output = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # Any: the buffer protocol has no type before Python 3.12
        while not self._output:
            self._input = self._input or self._raw.read(1 << 16)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the last zstd frame does not end")
                return 0
            self._frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._output = self._frame.decompress(self._input)
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size


def _plain(raw: BinaryIO) -> BinaryIO:
    return raw


def _zstd(raw: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_ZstdFrames(raw), 1 << 16)


DECOMPRESSORS: dict[str, Decompressor] = {
    "": _plain,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}
FORMATS = {".txt": _documents_from_text, ".jsonl": _documents_from_jsonl}
KNOWN_SUFFIXES = [name + compression for name in FORMATS for compression in DECOMPRESSORS]
EXAMPLE = '{"text": "..."} or {"paragraphs": ["...", "..."]}'

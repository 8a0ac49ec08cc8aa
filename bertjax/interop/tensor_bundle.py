"""TensorFlow's checkpoints (`NAME.index`, `NAME.data-00000-of-00001`), read without TensorFlow.

The index is a table of sorted keys, LevelDB's format: blocks of entries with shared beginnings, each with a checksum.
Its values are protocol buffers that say of a tensor what it is and where its bytes lie.
Source: tensorflow/core/util/tensor_bundle, tensorflow/core/lib/io/table, tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from bertjax.errors import UserError

MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: two places of blocks, filled up to 40, and the magic number
TRAILER = 5  # bytes behind a block: its compression, its checksum
DTYPES: Mapping[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    9: np.int64,
    14: ml_dtypes.bfloat16,
    19: np.float16,
}
"""By their numbers in tensorflow/core/framework/types.proto."""


class Entry(NamedTuple):
    """What a tensor is, and where its bytes lie."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


def read_entries(index: Path) -> tuple[dict[str, Entry], int]:
    """Returns the tensors that an index names, and the number of its data files.

    Raises: UserError if it is damaged, or the extra `google` is not installed.
    """
    data = index.read_bytes()
    try:
        if len(data) < FOOTER or struct.unpack("<Q", data[-8:])[0] != MAGIC:
            raise ValueError("it ends in another number than a table's")
        _, at = _block_place(data, len(data) - FOOTER)
        place, _ = _block_place(data, at)
        found = [item for _, value in _block(data, place) for item in _block(data, _block_place(value, 0)[0])]
        header, entries = dict(found).pop(b"", b""), [(key.decode(), value) for key, value in found if key]
        return {name: _entry(value) for name, value in entries}, _fields(header).get(1, [1])[0]
    except (IndexError, ValueError, struct.error) as error:
        raise UserError(f"{index} is damaged or no checkpoint of TensorFlow's ({error}); get it again") from error


def read_tensor(index: Path, name: str, entry: Entry, shards: int) -> np.ndarray:
    """Returns a tensor. Raises: UserError if its file is missing or cut off, or its checksum is another one."""
    path = index.with_name(f"{index.stem}.data-{entry.shard:05d}-of-{shards:05d}")
    if not path.is_file():
        raise UserError(f"{path} is not there, which {index.name} names; get the folder again")
    if entry.dtype not in DTYPES:
        raise UserError(f"{path}: {name} is of TensorFlow's type {entry.dtype}, which is not known here")
    dtype = np.dtype(DTYPES[entry.dtype])
    with path.open("rb") as file:
        file.seek(entry.offset)
        data = file.read(entry.size) if entry.size <= path.stat().st_size else b""
    wanted = int(np.prod(entry.shape, dtype=object)) * dtype.itemsize
    if len(data) != entry.size or wanted != entry.size or _checksum(data) != entry.checksum:
        raise UserError(f"{path} is damaged or cut off at {name}; get it again")
    return np.frombuffer(data, dtype).reshape(entry.shape)


def _block_place(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Returns (offset, size) of a block, and where reading goes on."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, place: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the keys and values of a block, without the list of restarts behind them."""
    offset, size = place
    contents, trailer = data[offset : offset + size], data[offset + size : offset + size + TRAILER]
    compression, checksum = struct.unpack("<BI", trailer)
    if _checksum(contents + trailer[:1]) != checksum:
        raise ValueError(f"the block at {offset} has another checksum")
    if compression:
        raise ValueError(f"the block at {offset} is compressed, which TensorFlow does not do")
    (restarts,) = struct.unpack("<I", contents[-4:])
    at, end, key = 0, size - 4 - 4 * restarts, b""
    while at < end:
        shared, at = _varint(contents, at)
        own, at = _varint(contents, at)
        length, at = _varint(contents, at)
        key = key[:shared] + contents[at : at + own]
        yield key, contents[at + own : at + own + length]
        at += own + length


def _entry(value: bytes) -> Entry:
    fields = _fields(value)
    if 7 in fields:
        raise ValueError("it holds tensors in slices")
    dimensions = [_fields(dimension).get(1, [0])[0] for dimension in _fields(fields.get(2, [b""])[0]).get(2, [])]
    dtype, shard, offset, size, checksum = (fields.get(number, [0])[0] for number in (1, 3, 4, 5, 6))
    return Entry(dtype, tuple(dimensions), shard, offset, size, checksum)


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Returns the values of a protocol buffer's fields by their numbers: whole numbers, or bytes."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            value, at = message[at : at + length], at + length
        elif kind == 5:
            (value,), at = struct.unpack("<I", message[at : at + 4]), at + 4
        else:
            raise ValueError(f"it has a field of kind {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number written in sevens of bits, the lowest first, and where reading goes on."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at


def _checksum(data: bytes) -> int:
    """Returns the CRC-32C, turned and shifted as the formats keep it."""
    crc = _crc32c()(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c() -> Callable[[bytes], int]:
    try:
        import google_crc32c
    except ImportError as error:
        raise UserError(
            "checkpoints of Google's need the extra `google`, for their checksums; use pip install 'bertjax[google]'"
        ) from error
    value: Callable[[bytes], int] = google_crc32c.value
    return value

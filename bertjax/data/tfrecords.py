"""TFRecord files: records framed by their length, each with checksums, read without TensorFlow."""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bertjax.errors import UserError

_HEADER, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reversed
_AT_A_TIME = 1024  # bytes of a checksum; a table of 1 MB


def is_tfrecords(path: Path) -> bool:
    """Returns whether the file has the name of one: NAME.tfrecord, possibly with the number of its shard behind it."""
    return path.suffix.startswith(".tfrecord")


def read_records(path: Path) -> Iterator[bytes]:
    """Yields the records of a file. Raises: UserError, with the number of the record, if it is damaged or cut off.

    Source: tensorflow/tensorflow, tensorflow/core/lib/io/record_writer.h.
    """
    with path.open("rb") as file:
        for number in itertools.count():
            where = f"{path}, record {number}"
            header = file.read(_HEADER.size)
            if not header:
                return
            _check(header, file, where)
            (length,) = _HEADER.unpack(header)
            record = file.read(length)
            if len(record) < length:
                raise UserError(_cut_off(where))
            _check(record, file, where)
            yield record


def _check(data: bytes, file: BinaryIO, where: str) -> None:
    stored = file.read(_CHECKSUM.size)
    if len(stored) < _CHECKSUM.size:  # also after half a header
        raise UserError(_cut_off(where))
    if masked_crc32c(data) != _CHECKSUM.unpack(stored)[0]:
        raise UserError(f"{where} is damaged (its checksum differs); fetch or make the file again")


def _cut_off(where: str) -> str:
    return f"{where} is cut off; fetch or make the file again"


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum as TFRecord files hold it. Source: as `read_records`, and crc32c.h beside it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Returns the CRC-32 of Castagnoli. Source: RFC 3720, appendix B.4."""
    register = 0xFFFFFFFF
    for start in range(0, len(data), _AT_A_TIME):
        register = _advanced(register, data[start : start + _AT_A_TIME])
    return register ^ 0xFFFFFFFF


def _advanced(register: int, data: bytes) -> int:
    """Returns the register after the data: the XOR of what each byte contributes, for the code is linear."""
    values = np.frombuffer(data, np.uint8).copy()
    first = min(4, len(values))
    values[:first] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)[:first]
    contributions = _table()[np.arange(len(values))[::-1], values]
    return int(np.bitwise_xor.reduce(contributions)) ^ (register >> 8 * len(values))


@functools.cache
def _table() -> np.ndarray:
    """Returns uint32 [_AT_A_TIME, 256]: what a byte contributes with so many bytes behind it."""
    row = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        row = np.where(row & 1, row >> 1 ^ np.uint32(_POLYNOMIAL), row >> 1)
    rows = [row]
    for _ in range(_AT_A_TIME - 1):
        rows.append(rows[-1] >> 8 ^ row[rows[-1] & 255])
    return np.stack(rows)

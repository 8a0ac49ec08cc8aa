"""TensorFlow's checkpoints, written without TensorFlow: one block, no key shortened."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np

from bertjax.interop.tensor_bundle import DTYPES, MAGIC


def varint(number: int) -> bytes:
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def block(items: Mapping[bytes, bytes], *, compression: bytes = b"\0") -> bytes:
    entries = [varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in items.items()]
    contents = b"".join(entries) + struct.pack("<II", 0, 1) + compression
    return contents + checksum(contents)


def place(offset: int, written: bytes) -> bytes:
    return varint(offset) + varint(len(written) - 5)


def write(path: Path, tensors: Mapping[str, np.ndarray], *, compression: bytes = b"\0", sliced: bool = False) -> None:
    """Writes PATH.index and PATH.data-00000-of-00001."""
    items, data = {b"": field(1, 1)}, b""
    for name, x in sorted(tensors.items()):
        written = np.ascontiguousarray(x).tobytes()
        dtype = next((number for number, known in DTYPES.items() if known == x.dtype), 7)
        shape = b"".join(field(2, field(1, size)) for size in x.shape)
        entry = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, len(written))
        entry += varint(6 << 3 | 5) + checksum(written) + (field(7, b"") if sliced else b"")
        items[name.encode()] = entry
        data += written
    first = block(items, compression=compression)
    second = block({b"~": place(0, first)})
    third = block({})
    at = len(first) + len(second)
    footer = (place(at, third) + place(len(first), second)).ljust(40, b"\0") + struct.pack("<Q", MAGIC)
    path.with_name(path.name + ".index").write_bytes(first + second + third + footer)
    path.with_name(path.name + ".data-00000-of-00001").write_bytes(data)

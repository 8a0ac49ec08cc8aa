"""TFRecord files as TensorFlow writes them, for tests; the checksum goes bit by bit."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tensorflow_datasets.proto import tf_example_pb2

Features = Mapping[str, Sequence[int] | Sequence[float]]


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(record: bytes) -> bytes:
    def checksum(data: bytes) -> bytes:
        crc = crc32c(data)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(record))
    return length + checksum(length) + record + checksum(record)


def serialized(features: Features) -> bytes:
    example = tf_example_pb2.Example()
    for name, values in features.items():
        kind = "float_list" if name == "masked_lm_weights" else "int64_list"
        getattr(example.features.feature[name], kind).value.extend(values)
    return example.SerializeToString()


def write(path: Path, records: Iterable[bytes]) -> Path:
    path.write_bytes(b"".join(map(framed, records)))
    return path

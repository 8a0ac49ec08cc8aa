from __future__ import annotations

import random
from pathlib import Path

import pytest

from bertjax.data.tfrecords import crc32c, is_tfrecords, read_records
from bertjax.errors import UserError
from tests.data import tfrecord_files

RECORDS = [b"first", b"", bytes(range(256)) * 20, b"last"]


def test_the_checksum_is_that_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4
    draw = random.Random(0)
    for length in [*range(20), 1020, 1024, 1025, 1028, 3000]:
        data = draw.randbytes(length)
        assert crc32c(data) == tfrecord_files.crc32c(data)


def test_records_are_read_in_order(tmp_path: Path) -> None:
    assert list(read_records(tfrecord_files.write(tmp_path / "a.tfrecord", RECORDS))) == RECORDS
    assert list(read_records(tfrecord_files.write(tmp_path / "empty.tfrecord", []))) == []


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("a.tfrecord", True),
        ("a.tfrecords", True),
        ("a.tfrecord-00003-of-00010", True),
        ("a.tfrecord.txt", False),
        ("tfrecord.jsonl", False),
    ],
)
def test_files_are_known_by_their_name(name: str, is_one: bool) -> None:
    assert is_tfrecords(Path(name)) is is_one


def test_wherever_a_file_is_cut_off_the_record_is_named(tmp_path: Path) -> None:
    whole = tfrecord_files.write(tmp_path / "a.tfrecord", [b"first", b"second"]).read_bytes()
    second = len(tfrecord_files.framed(b"first"))
    for end in range(second + 1, len(whole)):
        (tmp_path / "a.tfrecord").write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"a\.tfrecord, record 1 is cut off"):
            list(read_records(tmp_path / "a.tfrecord"))


def test_wherever_a_bit_is_wrong_the_record_is_named(tmp_path: Path) -> None:
    whole = tfrecord_files.write(tmp_path / "a.tfrecord", [b"first", b"second"]).read_bytes()
    for place in range(len(tfrecord_files.framed(b"first")), len(whole)):
        (tmp_path / "a.tfrecord").write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"a\.tfrecord, record 1 is damaged"):
            list(read_records(tmp_path / "a.tfrecord"))

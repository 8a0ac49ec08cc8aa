import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bertjax.data.documents import Document, find_files, read_documents
from bertjax.errors import UserError

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
TWO = [Document(("Moss grows.", "Slowly.")), Document(("Rain falls.",))]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_text_has_a_paragraph_a_line_and_a_blank_line_between_documents(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"\xef\xbb\xbf\r\n Moss grows. \r\nSlowly.\r\n \t\r\n\r\nRain falls.")
    assert list(read_documents([path])) == TWO


def test_jsonl_takes_text_or_paragraphs_and_groups(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.jsonl",
        b'{"text": "Moss grows.\\n\\n Slowly.\\r\\n", "id": 3}\n\n'
        b'{"paragraphs": ["", "Rain falls."], "group": "g"}\r\n{"text": ""}',
    )
    assert list(read_documents([path])) == [TWO[0], Document(("Rain falls.",), "g")]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    compress = COMPRESSORS[suffix]
    # Two streams one after the other are one file, as `cat a.gz b.gz` makes it.
    path = written(tmp_path / f"a.txt{suffix}", compress(b"Moss grows.\nSlow") + compress(b"ly.\n\nRain falls.\n"))
    assert list(read_documents([path])) == TWO


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_compressed_files_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    text = "".join(f"line {n * n}\n" for n in range(30_000)).encode()
    content = COMPRESSORS[suffix](text)
    content = content[:-20] if damage == "cut" else b"x" * 20 + content[20:]
    path = written(tmp_path / f"a.txt{suffix}", content)
    with pytest.raises(UserError, match=f"a.txt{suffix} is damaged or cut off"):
        list(read_documents([path]))


def test_bytes_that_are_not_utf8_are_located_and_can_be_replaced(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", b"\xef\xbb\xbfgood\nna\xefve\n")
    with pytest.raises(UserError, match=r"a\.txt:2: byte 0xef at offset 10 .*--encoding-errors=replace"):
        list(read_documents([path]))
    assert list(read_documents([path], "replace")) == [Document(("good", "na\ufffdve"))]
    first = written(tmp_path / "b.txt", b"\xef\xbb\xbf\xff")
    with pytest.raises(UserError, match="offset 3 "):
        list(read_documents([first]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "need an object"),
        ('{"body": "x"}', 'either "text" or "paragraphs"'),
        ('{"text": "x", "paragraphs": ["x"]}', 'either "text" or "paragraphs"'),
        ('{"text": ["x"]}', '"text" must be a string'),
        ('{"paragraphs": "x"}', '"paragraphs" a list of strings'),
        ('{"paragraphs": ["x", 1]}', '"paragraphs" a list of strings'),
        ('{"text": null}', '"text" must be a string'),
        ('{"text": "x", "group": 3}', '"group" must be a string, not 3'),
        ('{"text": "\\ud83d"}', "half of a surrogate pair"),
        ("9" * 5000, "not JSON"),
    ],
)
def test_lines_of_another_form_are_located(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + line.encode() + b"\n")
    with pytest.raises(UserError, match=message) as error:
        list(read_documents([path]))
    assert f"{path}:2: " in str(error.value)


def test_directories_and_patterns_are_searched_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub.d").mkdir()
    names = ["b.txt", "a.x.jsonl.gz", "sub.d/c.txt", "readme.md", "table.csv.gz"]
    files = [written(tmp_path / name, b"") for name in names]
    assert find_files([tmp_path]) == [files[1], files[0], files[2]]
    assert find_files([tmp_path / "*.txt", files[1]]) == [files[0], files[1]]
    assert find_files([f"{tmp_path}/**/*.txt"]) == [files[0], files[2]]


def test_a_file_named_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a[1].txt", b"x")
    assert find_files([path]) == [path]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "missing.txt does not exist"),
        ("*.txt", "holds no text files"),
        ("empty", r"holds no text files; known are \.txt, \.txt\.gz"),
        ("a.md", r"a\.md is no kind of file that can be read; known are \.txt"),
        ("a.md.gz", "is no kind of file"),
        ("plain", "is no kind of file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("a.md", "a.md.gz", "plain"):
        written(tmp_path / file, b"x")
    with pytest.raises(UserError, match=message):
        find_files([tmp_path / name])


def test_no_input_is_an_error() -> None:
    with pytest.raises(UserError, match="no input files"):
        find_files([])

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
import zstandard

from bertjax.errors import UserError
from bertjax.tasks.tables import read_rows
from tests.data.test_tfds_text import write_records


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def values(path: Path, columns: list[str], optional: list[str] | None = None) -> list[tuple[object, ...]]:
    return [row.values for row in read_rows(path, columns, optional or [])]


def test_tsv_takes_quotes_as_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'id\ttext\r\n1\tsay "no\r\n\r\n2\t"yes" , and\u2028on\r\n')
    assert values(path, ["text", "id"]) == [('say "no', "1"), ('"yes" , and\u2028on', "2")]


def test_txt_is_tsv(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.txt", 'text\tb\r\nsay "no, x\ty\r\n'), ["text"]) == [('say "no, x',)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x, y\t1\nz, w\t2\n", [("x", " y\t1"), ("z", " w\t2")]),  # a comma outside of quotes parts the columns
        ('"x, y"\t1\nz "w\t2\n', [('"x, y"', "1"), ('z "w', "2")]),
        ("\tx\n\n,y\tz\n", [("", "x"), (",y", "z")]),
        ('"x\ty",1\nz,2\n', [("x\ty", "1"), ("z", "2")]),  # the tab is within quotes
    ],
)
def test_a_csv_whose_first_line_has_tabs_and_no_comma_is_a_tsv(
    tmp_path: Path, text: str, expected: list[tuple[str, str]]
) -> None:
    assert values(write(tmp_path / "a.csv", text), ["0", "1"]) == expected


def test_a_field_of_a_csv_may_be_long(tmp_path: Path) -> None:
    text = "long " * 30_000  # more than the csv module's own limit of 131,072
    assert values(write(tmp_path / "a.csv", f'text,b\n"{text}",x\n'), ["text"]) == [(text,)]


def test_csv_takes_quotes_as_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"one, ""two""\nthree",x\n\nfour,y\n')
    rows = list(read_rows(path, ["label", "text"]))
    assert [row.values for row in rows] == [("x", 'one, "two"\nthree'), ("y", "four")]
    assert [row.where for row in rows] == [f"{path}:3", f"{path}:5"]


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "a", "label": 1}\n\n{"label": null, "text": "b"}\n')
    assert values(path, ["text", "label"]) == [("a", 1), ("b", None)]


def test_a_csv_of_one_column_is_none_of_tabs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'I like\tthis film\n"quoted, text"\n')
    assert values(path, ["0"], ["label"]) == [("I like\tthis film", None), ("quoted, text", None)]


def test_columns_by_number_need_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "id-1\t0\t*\tfirst\nid-2\t1\t\tsecond\n")
    assert values(path, ["3", "1"]) == [("first", "0"), ("second", "1")]


def test_a_column_that_may_be_missing_is_none(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.tsv", "text\na\n"), ["text"], ["label"]) == [("a", None)]
    assert values(write(tmp_path / "a.tsv", "label\ttext\nx\ta\n"), ["text"], ["label"]) == [("a", "x")]
    assert values(write(tmp_path / "a.jsonl", '{"text": "a"}\n'), ["text"], ["label"]) == [("a", None)]


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_compressed(tmp_path: Path, suffix: str, compress: object) -> None:
    path = tmp_path / f"a.tsv{suffix}"
    path.write_bytes(compress(b"text\nhello\n"))  # type: ignore[operator]
    assert values(path, ["text"]) == [("hello",)]
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match="damaged or cut off"):
        values(path, ["text"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "sentence\tgold\nx\ty\n", r"a.tsv has no column 'text'; its columns are 'sentence', 'gold'"),
        ("a.tsv", "text\ttext\nx\ty\n", r"a.tsv has 2 columns 'text'"),
        ("a.tsv", "text\tb\nx\ty\nz\n", r"a.tsv:3 has 1 fields, the header has 2"),
        ("a.csv", 'text,b\nx,y\n"z,w\n', r"a.csv:3: not CSV \(unexpected end of data\)"),
        ("a.csv", "text,b\nx,y,z\n", r"a.csv:2 has 3 fields, the header has 2"),
        ("a.jsonl", '{"text": "a"}\n{"text": a}\n', r"a.jsonl:2: not JSON"),
        ("a.jsonl", '["text"]\n', r"a.jsonl:1: not a JSON object but a list"),
        ("a.jsonl", '{"sentence": "a"}\n', r"a.jsonl:1 has no key 'text'; its keys are 'sentence'"),
        ("a.tsv", "text\n", r"a.tsv has no rows"),
        ("a.csv", "", r"a.csv has no rows"),
        ("a.jsonl", "\n", r"a.jsonl has no rows"),
        ("a.parquet", "", r"a.parquet is no table that can be read; known are .tsv, .csv, .jsonl"),
    ],
)
def test_mistakes_say_where(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        values(write(tmp_path / name, text), ["text"])


def test_no_row_is_lost(tmp_path: Path) -> None:
    """A row of empty fields is a row, and so is a blank line where there is one column: an empty text."""
    assert values(write(tmp_path / "a.tsv", "text\tb\nx\ty\n\t\n\nz\t\n"), ["text"]) == [("x",), ("",), ("z",)]
    assert values(write(tmp_path / "a.tsv", "text\nx\n\nz\n"), ["text"]) == [("x",), ("",), ("z",)]
    assert values(write(tmp_path / "a.csv", "text\nx\n\nz\n"), ["text"]) == [("x",), ("",), ("z",)]
    assert values(write(tmp_path / "a.csv", "text,b\nx,y\n\n,\n"), ["text"]) == [("x",), ("",)]


def test_a_number_beyond_the_columns(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no column '2'; its columns are '0', '1'"):
        values(write(tmp_path / "a.tsv", "x\ty\n"), ["2"])
    with pytest.raises(UserError, match=r"a.tsv:2 has 1 fields, column 1 is asked for"):
        values(write(tmp_path / "a.tsv", "x\ty\nz\n"), ["1"])


def test_without_a_header_rows_may_be_wider(tmp_path: Path) -> None:
    """The STS benchmark's files have 7 or 9 fields."""
    path = write(tmp_path / "a.tsv", "x\ty\nz\tw\tsource\tlicence\n")
    assert values(path, ["1", "0"]) == [("y", "x"), ("w", "z")]


def test_rows_that_do_not_fit_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("a.tsv", "text\tb\nx\ty\nz\nv\tw\n"), ("a.csv", "text,b\nx,y\nz,1,2\nv,w\n")):
        path = write(tmp_path / name, text)
        assert [row.values for row in read_rows(path, ["text"], skip_bad=True)] == [("x",), ("v",)]
        told = capsys.readouterr().err
        assert f"{path}: 1 rows are left out; the first: {path}:3 has " in told
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": \n')
    assert [row.values for row in read_rows(path, ["text"], skip_bad=True)] == [("x",)]
    assert f"the first: {path}:2: not JSON" in capsys.readouterr().err
    list(read_rows(write(tmp_path / "b.tsv", "text\nx\n"), ["text"], skip_bad=True))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "text"), [("a.tsv", "text\tb\nx\n"), ("a.jsonl", "{\n")])
def test_leaving_rows_out_is_proposed_only_where_it_can_be_asked_for(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(UserError, match=r"or use --data.skip_bad_rows=True"):
        list(read_rows(path, ["text"], skip_bad=False))
    with pytest.raises(UserError) as of_a_test_file:
        list(read_rows(path, ["text"]))
    assert "skip_bad_rows" not in str(of_a_test_file.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a.tsv does not exist"):
        values(tmp_path / "a.tsv", ["text"])


def test_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"text\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"a.tsv:2: byte 0xe9 at offset 8 is not UTF-8"):
        values(tmp_path / "a.tsv", ["text"])


def test_a_tfds_data_set_is_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    features = {"sentence": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["dry", "wet"])}
    records: list[dict[str, object]] = [{"sentence": "Nass.", "label": "wet"}, {"sentence": "Sand.", "label": -1}]
    write_records(tmp_path / "rain" / "1.0.0", "test", features, [records])
    rows = list(read_rows("tfds:rain#test", ["sentence"], ["label", "second"]))
    assert [row.values for row in rows] == [("Nass.", "wet", None), ("Sand.", None, None)]
    assert rows[1].where == "tfds:rain#test, record 1"
    with pytest.raises(UserError, match=r"tfds:rain#test has no feature 'text'; its features are 'label', 'sentence'"):
        list(read_rows("tfds:rain#test", ["text"]))

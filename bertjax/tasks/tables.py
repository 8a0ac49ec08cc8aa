"""Rows of tables: files .tsv, .txt, .csv and .jsonl, plain or compressed, and TFDS data sets, `tfds:NAME#SPLIT`.

A .tsv or .txt has no quoting, as in GLUE: a quote is a character. A .csv is what Python's csv module reads, or another
.tsv where its first line has tabs and no comma, as the STS benchmark's. All start with a line of column names, unless
columns are asked for by number, as "0". A blank line is no row, but an empty text where the table has one column.
"""

from __future__ import annotations

import csv
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bertjax import hosts
from bertjax.data import documents
from bertjax.errors import UserError

LONGEST_FIELD = 2**31 - 1
"""Of a .csv (characters): the most that its reader can be told, whose own is 131,072."""


class Row(NamedTuple):
    """What stands in the columns that were asked for, None in a column that is not there."""

    values: tuple[Any, ...]
    """Strings; from .jsonl whatever JSON has."""
    where: str
    """File and line, for messages."""


class _Record(NamedTuple):
    line: int
    fields: list[str]


def read_rows(
    path: str | Path, columns: Sequence[str], optional: Sequence[str] = (), *, skip_bad: bool | None = None
) -> Iterator[Row]:
    """Yields the file's rows, reduced to `columns`, then those `optional` ones.

    Raises: UserError, with file and line, for a missing file or column, a kind of file or a text that cannot be read,
    and a row that does not fit the others, unless `skip_bad` leaves those out, counts them and names the first. It is
    None where that cannot be asked for, as of a test file.
    """
    if str(path).startswith(documents.TFDS):
        yield from _read_tfds(str(path), columns, optional)
        return
    path = Path(path)
    suffix = documents.suffix_of(path)
    if suffix not in READERS:
        known = f"{', '.join(READERS)}, or one of these with {', '.join(filter(None, documents.DECOMPRESSORS))}"
        raise UserError(f"{path} is no table that can be read; known are {known}")
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a {', '.join(READERS)} file")
    lines = (line.text + line.end for line in documents.lines_of(path))
    empty = True
    bad: list[str] = []
    advice = "" if skip_bad is None else ", or use --data.skip_bad_rows=True"
    wrong = bad.append if skip_bad else functools.partial(_refuse, advice)
    for row in READERS[suffix](path, lines, columns, optional, wrong):
        empty = False
        yield row
    if bad:
        hosts.say(f"{path}: {len(bad)} rows are left out; the first: {bad[0]}")
    if empty:
        raise UserError(f"{path} has no rows")


def has_objects(path: str | Path) -> bool:
    """Returns whether rows have more than strings: those of .jsonl, plain or compressed, and of a TFDS data set."""
    return str(path).startswith(documents.TFDS) or documents.suffix_of(Path(path)) == ".jsonl"


Wrong = Callable[[str], None]
"""Is told what is wrong with a row, and raises it unless such rows are left out."""


def _refuse(advice: str, message: str) -> NoReturn:
    raise UserError(message + advice)


def _read_tsv(
    path: Path, lines: Iterator[str], columns: Sequence[str], optional: Sequence[str], wrong: Wrong
) -> Iterator[Row]:
    rows = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
    records = (_Record(number, line.split("\t")) for number, line in rows)
    return _rows(path, records, columns, optional, wrong)


def _read_csv(
    path: Path, lines: Iterator[str], columns: Sequence[str], optional: Sequence[str], wrong: Wrong
) -> Iterator[Row]:
    first = next(lines, "")
    outside = "".join(first.split('"')[::2])  # of quotes
    several = {*columns, *filter(str.isdecimal, optional)} != {"0"}  # the text of a table of one column may have a tab
    tabs = several and "\t" in outside and "," not in outside
    if tabs:
        hosts.say(f"{path}: tabs part its columns, it is read as a .tsv")
    return (_read_tsv if tabs else _read_commas)(path, itertools.chain([first], lines), columns, optional, wrong)


def _read_commas(
    path: Path, lines: Iterator[str], columns: Sequence[str], optional: Sequence[str], wrong: Wrong
) -> Iterator[Row]:
    return _rows(path, _csv_records(path, lines), columns, optional, wrong)


def _csv_records(path: Path, lines: Iterator[str]) -> Iterator[_Record]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, strict=True)
    try:
        for fields in reader:
            yield _Record(reader.line_num, fields or [""])
    except csv.Error as error:
        raise UserError(
            f"{path}:{reader.line_num}: not CSV ({error}); close the quote, or name the file .tsv"
        ) from error


def _rows(
    path: Path, records: Iterator[_Record], columns: Sequence[str], optional: Sequence[str], wrong: Wrong
) -> Iterator[Row]:
    """Yields rows as wide as the first record, which is the header unless the columns are numbers.

    Without a header rows may be wider than the columns that are asked for, as in the STS benchmark.
    """
    first = next(itertools.dropwhile(_is_blank, records), None)
    if first is None:
        return
    numbered = all(name.isdecimal() for name in columns)
    names = [str(i) for i in range(len(first.fields))] if numbered else [name.strip() for name in first.fields]
    places = _places(path, names, columns, optional)
    if numbered:
        yield Row(_take(first.fields, places), f"{path}:{first.line}")
    needed = 1 + max(place for place in places if place is not None)
    for line, fields in itertools.filterfalse(_is_blank, records) if len(names) > 1 else records:
        if len(fields) < needed if numbered else len(fields) != len(names):
            what = f"column {needed - 1} is asked for" if numbered else f"the header has {len(names)}"
            wrong(f"{path}:{line} has {len(fields)} fields, {what}; even them out")
        else:
            yield Row(_take(fields, places), f"{path}:{line}")


def _is_blank(record: _Record) -> bool:
    return len(record.fields) == 1 and not record.fields[0].strip()


def _places(path: Path, names: list[str], columns: Sequence[str], optional: Sequence[str]) -> list[int | None]:
    for column in columns:
        if column not in names:
            raise UserError(f"{path} has no column {column!r}; its columns are {', '.join(map(repr, names))}")
    for column in (*columns, *optional):
        if names.count(column) > 1:
            raise UserError(f"{path} has {names.count(column)} columns {column!r}; give each a name of its own")
    return [names.index(column) if column in names else None for column in (*columns, *optional)]


def _take(fields: list[str], places: list[int | None]) -> tuple[str | None, ...]:
    return tuple(None if place is None else fields[place] for place in places)


def _read_jsonl(
    path: Path, lines: Iterator[str], columns: Sequence[str], optional: Sequence[str], wrong: Wrong
) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            wrong(f"{where}: not JSON ({error}); make every line one object")
            continue
        if not isinstance(value, dict):
            raise UserError(
                f"{where}: not a JSON object but a {type(value).__name__}; name the columns, as {{'text': ...}}"
            )
        for column in columns:
            if column not in value:
                raise UserError(f"{where} has no key {column!r}; its keys are {', '.join(map(repr, value))}")
        yield Row(tuple(value.get(column) for column in (*columns, *optional)), where)


def _read_tfds(name: str, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Row]:
    from bertjax.data import tfds_text  # imports TFDS, which takes a while

    data_set, _, split = name.removeprefix(documents.TFDS).partition("#")
    for number, record in enumerate(tfds_text.read_records(data_set, split)):
        for column in columns:
            if column not in record:
                raise UserError(f"{name} has no feature {column!r}; its features are {', '.join(map(repr, record))}")
        yield Row(tuple(record.get(column) for column in (*columns, *optional)), f"{name}, record {number}")


READERS: dict[str, Callable[[Path, Iterator[str], Sequence[str], Sequence[str], Wrong], Iterator[Row]]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".txt": _read_tsv,
}

"""Tagged tokens in columns (CoNLL): the files, the entities that tags stand for, and the scores of conlleval.

Source: Tjong Kim Sang and De Meulder 2003, and the behaviour of their conlleval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bertjax.data import documents
from bertjax.errors import UserError
from bertjax.tasks import tables

DOCUMENT = "-DOCSTART-"
OUTSIDE = "O"
PREFIXES = "BIESLU"  # U and L, of BILOU, are S and E of IOBES


class Entity(NamedTuple):
    """Tokens `start` to `end` of a sentence, and what they name."""

    kind: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence's tokens and their tags."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...] | None
    """None where they are not known."""
    document: int
    """Number of the document it stands in, from 0; -1 where none has begun."""


def read_sentences(path: str | Path, token: int, tag: int, *, tags_required: bool, prefix: str = "") -> list[Sentence]:
    """Returns the sentences of a file with a token a line, a blank line between sentences; plain or compressed.

    Columns are parted by tabs or spaces, `token` and `tag` their numbers from 0, negative ones from the end. A line
    that begins with -DOCSTART- begins a document. Unless `tags_required`, a sentence whose lines all lack the tag has
    none. `prefix` is taken off the tokens.

    Raises: UserError, with file and line, for a line without these columns or with a tag that is neither O nor
    B-, I-, E-, S-, L- or U- and a name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a file with a token and its tag a line")
    sentences = []
    for document, rows in _blocks(path, token):
        tags = tuple(_tag(fields, tag, where) for fields, where in rows)
        bare = [where for found, (_, where) in zip(tags, rows, strict=True) if found is None]
        if bare and (tags_required or len(bare) < len(tags)):
            raise UserError(f"{bare[0]} has no column {tag}; give each token a tag, or name its column: --data.label")
        tokens = tuple(fields[token].removeprefix(prefix) for fields, _ in rows)
        sentences.append(Sentence(tokens, None if bare else tuple(t for t in tags if t is not None), document))
    if not sentences:
        raise UserError(f"{path} has no sentences")
    return sentences


def read_rows_of_tokens(
    path: str | Path, tokens: str, tags: str, *, tags_required: bool, prefix: str = ""
) -> list[Sentence]:
    """Returns the sentences of a .jsonl file or a TFDS data set, whose rows have lists of tokens and of tags.

    Raises: UserError, with the place, for a row without them, of different lengths, or with a tag that is none.
    """
    wanted, optional = ([tokens, tags], []) if tags_required else ([tokens], [tags])
    sentences = []
    for row in tables.read_rows(path, wanted, optional):
        found, told = row.values
        if not isinstance(found, list) or not found or not all(isinstance(token, str) for token in found):
            raise UserError(f"{row.where}: {tokens!r} is {found!r}; give a list of one token or more")
        is_missing = told is None and not tags_required
        if not is_missing and (not isinstance(told, list) or len(told) != len(found)):
            raise UserError(f"{row.where}: {tags!r} is {told!r}; give a list with a tag for each token, {len(found)}")
        for token in found:
            documents.check_whole(token, row.where)
        named = None if told is None else tuple(_checked(str(tag), row.where) for tag in told)
        sentences.append(Sentence(tuple(token.removeprefix(prefix) for token in found), named, -1))
    if not sentences:
        raise UserError(f"{path} has no sentences")
    return sentences


Rows = list[tuple[list[str], str]]


def _blocks(path: Path, token: int) -> Iterator[tuple[int, Rows]]:
    """Yields for each sentence the number of its document, and fields and place of each line."""
    document, rows = -1, Rows()
    for line in documents.lines_of(path):
        fields = _fields(line.text)
        if fields and fields[0] != DOCUMENT:
            if not -len(fields) <= token < len(fields):
                raise UserError(f"{line.where} has {len(fields)} columns, so no column {token}: --data.text")
            if not fields[token]:
                raise UserError(f"{line.where}: column {token} is empty; give each line a token")
            rows.append((fields, line.where))
            continue
        if rows:
            yield document, rows
            rows = []
        document += bool(fields)
    if rows:
        yield document, rows


def _fields(line: str) -> list[str]:
    """Returns the columns: tabs part them where there are some, else spaces; other white space belongs to a token.

    A column before a tab may be empty. What stands at the end of a line are no columns.
    """
    if not line.strip():
        return []
    if "\t" in line:
        return [field.strip(" ") for field in line.rstrip(" \t\r\n").split("\t")]
    return [field.strip() for field in line.split(" ") if field.strip()]


def _tag(fields: list[str], column: int, where: str) -> str | None:
    if not -len(fields) <= column < len(fields) or len(fields) < 2:
        return None
    return _checked(fields[column], where) if fields[column] else None


def is_tag(label: str) -> bool:
    """Returns whether it is O, or says where in an entity a word stands, and the entity's name."""
    prefix, dash, kind = label.partition("-")
    return label == OUTSIDE or bool(len(prefix) == 1 and prefix in PREFIXES and dash and kind)


def _checked(tag: str, where: str) -> str:
    if not is_tag(tag):
        raise UserError(f"{where}: {tag!r} is no tag; use O, B-NAME, I-NAME, or E-NAME and S-NAME of IOBES")
    return tag


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities of a sentence, by the rules of conlleval, which know IOB1, BIO2 and IOBES.

    An entity begins at B and S, behind an E or S, where none was, and where the name changes.
    """
    found: list[Entity] = []
    begin: int | None = None
    before, kind_before = OUTSIDE, ""
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, kind = tag.partition("-")
        prefix = {"U": "S", "L": "E"}.get(prefix, prefix)
        ended = before in "ES" or prefix in "BSO" or kind != kind_before
        if begin is not None and ended:
            found.append(Entity(kind_before, begin, i))
            begin = None
        if begin is None and prefix != OUTSIDE:
            begin = i
        before, kind_before = prefix, kind
    return found


def bio_tags(found: Sequence[Entity], length: int) -> list[str]:
    """Returns the entities as BIO2: each begins with B-, goes on with I-."""
    tags = [OUTSIDE] * length
    for kind, start, end in found:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def entities_seen(sentences: Sequence[Sentence]) -> dict[tuple[str, ...], str]:
    """Returns the entities of tagged sentences that have one name only, by their tokens: a lexicon."""
    kinds: dict[tuple[str, ...], set[str]] = {}
    for sentence in sentences:
        for kind, start, end in entities(sentence.tags or ()):
            kinds.setdefault(sentence.tokens[start:end], set()).add(kind)
    return {tokens: min(names) for tokens, names in kinds.items() if len(names) == 1}


def looked_up(tokens: Sequence[str], seen: Mapping[tuple[str, ...], str], longest: int) -> list[str]:
    """Returns the tags, BIO2, of the entities of a lexicon that stand in a sentence, from the left the longest first.

    Source: the baseline of Tjong Kim Sang and De Meulder 2003, section 5.
    """
    found, start = [], 0
    while start < len(tokens):
        ends = range(min(len(tokens), start + longest), start, -1)
        end = next((end for end in ends if tuple(tokens[start:end]) in seen), None)
        if end is not None:
            found.append(Entity(seen[tuple(tokens[start:end])], start, end))
        start = end or start + 1
    return bio_tags(found, len(tokens))


def entity_metrics(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns precision, recall and f1 of whole entities, their names right, over all sentences, and tag accuracy.

    A share of nothing is 0.
    """
    hits = said = there = right = 0
    for tags, guess in zip(true, predicted, strict=True):
        entities_there, entities_said = set(entities(tags)), set(entities(guess))
        hits += len(entities_there & entities_said)
        said, there = said + len(entities_said), there + len(entities_there)
        right += sum(a == b for a, b in zip(tags, guess, strict=True))
    return {
        "precision": hits / said if said else 0.0,
        "recall": hits / there if there else 0.0,
        "f1": 2 * hits / (said + there) if hits else 0.0,
        "accuracy": right / max(1, sum(map(len, true))),
    }


def write_columns(path: Path, sentences: Sequence[Sentence], predicted: Sequence[Sequence[str]]) -> Path:
    """Writes token, tag if it is known, and predicted tag, parted by spaces as for conlleval; returns the path."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        document = sentences[0].document if sentences else 0
        for sentence, tags in zip(sentences, predicted, strict=True):
            if sentence.document > document:
                document = sentence.document
                file.write(f"{DOCUMENT} {OUTSIDE} {OUTSIDE}\n\n")
            tokens = ["_".join(token.split()) or "_" for token in sentence.tokens]  # no white space within a column
            columns = [tokens, tags] if sentence.tags is None else [tokens, sentence.tags, tags]
            file.writelines(f"{' '.join(row)}\n" for row in zip(*columns, strict=True))
            file.write("\n")
    return path

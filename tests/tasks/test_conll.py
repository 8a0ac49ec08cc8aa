from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from bertjax.errors import UserError
from bertjax.tasks.conll import (
    Entity,
    Sentence,
    bio_tags,
    entities,
    entities_seen,
    entity_metrics,
    looked_up,
    read_rows_of_tokens,
    read_sentences,
    write_columns,
)
from tests.data.test_tfds_text import write_records


def test_reads_columns_sentences_and_documents(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\nAnna NNP I-NP I-PER\nleft VBD I-VP O\n\n\nRain NN I-NP O\n\n"
        "-DOCSTART- -X- O O\n\nYork NNP I-NP I-LOC\n"
    )
    (tmp_path / "a.conll").write_text(text)
    expected = [
        Sentence(("Anna", "left"), ("I-PER", "O"), 0),
        Sentence(("Rain",), ("O",), 0),
        Sentence(("York",), ("I-LOC",), 1),
    ]
    assert read_sentences(tmp_path / "a.conll", 0, 3, tags_required=True) == expected
    assert read_sentences(tmp_path / "a.conll", 0, -1, tags_required=True) == expected
    (tmp_path / "a.conll.gz").write_bytes(gzip.compress(text.replace("\n", "\r\n").encode("utf-8-sig")))
    assert read_sentences(tmp_path / "a.conll.gz", 0, 3, tags_required=True) == expected


def test_tabs_part_columns_where_there_are_some(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("en:New York\tB-LOC\nen:a\u00a0b\tO\n\t\nen:x\tO\n", encoding="utf-8")
    found = read_sentences(tmp_path / "a", 0, 1, tags_required=True, prefix="en:")
    assert found == [Sentence(("New York", "a\u00a0b"), ("B-LOC", "O"), -1), Sentence(("x",), ("O",), -1)]
    (tmp_path / "a").write_text("Rain\t\tO\t\nYork\tNNP\tB-LOC\n")  # an empty column is one
    assert read_sentences(tmp_path / "a", 0, 2, tags_required=True) == [Sentence(("Rain", "York"), ("O", "B-LOC"), -1)]


def test_columns_before_tabs_may_be_empty(tmp_path: Path) -> None:
    text = "New York\t\tI-NP\tB-LOC\nis\tVBD\t\tO\t\t\nx y z O\n\u00a0\t\t\tO\n"
    (tmp_path / "a").write_text(text, encoding="utf-8")
    (found,) = read_sentences(tmp_path / "a", 0, 3, tags_required=True)
    assert found.tokens == ("New York", "is", "x", "\u00a0")
    assert found.tags == ("B-LOC", "O", "O", "O")
    (tmp_path / "a").write_text("Anna\tNNP\tO\n\tNNP\tO\n")
    with pytest.raises(UserError, match="a:2: column 0 is empty; give each line a token"):
        read_sentences(tmp_path / "a", 0, 2, tags_required=True)
    (tmp_path / "a").write_text("Anna\t\tNNP\n")
    assert read_sentences(tmp_path / "a", 0, 1, tags_required=False) == [Sentence(("Anna",), None, -1)]
    with pytest.raises(UserError, match="a:1 has no column 1"):
        read_sentences(tmp_path / "a", 0, 1, tags_required=True)


def test_what_stands_before_the_first_document_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a O\n\n-DOCSTART- O\n\nb O\n")
    found = read_sentences(tmp_path / "a", 0, 1, tags_required=True)
    assert [sentence.document for sentence in found] == [-1, 0]
    path = write_columns(tmp_path / "p.conll", found, [["O"], ["O"]])
    assert [one.document for one in read_sentences(path, 0, 1, tags_required=True)] == [-1, 0]


def test_rows_of_a_jsonl_or_of_tfds_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"tokens": ["New", "York"], "tags": ["B-LOC", "I-LOC"]}, {"tokens": ["en:x"]}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [Sentence(("New", "York"), ("B-LOC", "I-LOC"), -1), Sentence(("x",), None, -1)]
    assert read_rows_of_tokens(path, "tokens", "tags", tags_required=False, prefix="en:") == expected
    with pytest.raises(UserError, match=r"a.jsonl:2 has no key 'tags'"):
        read_rows_of_tokens(path, "tokens", "tags", tags_required=True)
    for row, message in (
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"a.jsonl:1: 'tags' is \['O'\]; give a list with a tag for each"),
        ({"tokens": ["a", "b"], "tags": []}, r"'tags' is \[\]; give a list with a tag for each token, 2"),
        ({"tokens": [], "tags": []}, r"'tokens' is \[\]; give a list of one token or more"),
        ({"tokens": "a", "tags": ["O"]}, r"'tokens' is 'a'; give a list"),
        ({"tokens": ["a"], "tags": [1]}, r"'1' is no tag; use O, B-NAME"),
    ):
        path.write_text(json.dumps(row))
        with pytest.raises(UserError, match=message):
            read_rows_of_tokens(path, "tokens", "tags", tags_required=True)

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    named = tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-LOC", "I-LOC"]))
    features = {"tokens": tfds.features.Sequence(tfds.features.Text()), "ner": named}
    write_records(tmp_path / "rain" / "1.0.0", "train", features, [[{"tokens": ["New", "York"], "ner": [1, 2]}]])
    assert read_rows_of_tokens("tfds:rain#train", "tokens", "ner", tags_required=True) == expected[:1]


def test_tags_may_be_missing_where_nothing_is_learned_from_them(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("Anna\nleft\n\nYork B-LOC\n")
    found = read_sentences(tmp_path / "a", 0, 1, tags_required=False)
    assert [sentence.tags for sentence in found] == [None, ("B-LOC",)]
    with pytest.raises(UserError, match=r"a:1 has no column 1"):
        read_sentences(tmp_path / "a", 0, 1, tags_required=True)
    (tmp_path / "a").write_text("Anna B-PER\nleft\n")
    with pytest.raises(UserError, match=r"a:2 has no column 1"):
        read_sentences(tmp_path / "a", 0, 1, tags_required=False)


@pytest.mark.parametrize("tag", ["PER", "B-", "B_PER", "X-PER", "BI-PER", "o", "-PER"])
def test_what_is_no_tag_is_named_with_its_line(tmp_path: Path, tag: str) -> None:
    (tmp_path / "a").write_text(f"Rain O\n\nAnna {tag}\n")
    with pytest.raises(UserError, match=rf"a:3: '{tag}' is no tag; use O, B-NAME, I-NAME"):
        read_sentences(tmp_path / "a", 0, 1, tags_required=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "a has no sentences"), ("\n\n", "a has no sentences"), ("a O\n", "a:1 has 2 columns, so no column 4")],
)
def test_files_that_are_no_such_columns_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sentences(tmp_path / "a", 4, 1, tags_required=True)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)]),
        ("B-A B-A I-B", [("A", 0, 1), ("A", 1, 2), ("B", 2, 3)]),
        ("I-A I-A B-A O", [("A", 0, 2), ("A", 2, 3)]),  # IOB1: B only parts two of one name
        ("O I-A", [("A", 1, 2)]),
        ("S-A B-A I-A E-A S-B", [("A", 0, 1), ("A", 1, 4), ("B", 4, 5)]),
        ("B-A E-A I-A", [("A", 0, 2), ("A", 2, 3)]),
        ("U-A B-A L-A U-A", [("A", 0, 1), ("A", 1, 3), ("A", 3, 4)]),
        ("B-A-B I-A-B", [("A-B", 0, 2)]),
        ("O O", []),
    ],
)
def test_entities_of_every_scheme(tags: str, found: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == [Entity(*one) for one in found]


def test_bio_tags_give_the_entities_back() -> None:
    found = [Entity("A", 0, 2), Entity("A", 2, 3), Entity("B", 4, 5)]
    assert bio_tags(found, 6) == ["B-A", "I-A", "B-A", "O", "B-B", "O"]
    assert entities(bio_tags(found, 6)) == found


def test_only_whole_entities_with_the_right_name_count() -> None:
    true = [["B-A", "I-A", "O", "B-B"], ["O", "B-A"]]
    guess = [["B-A", "O", "O", "B-B"], ["B-A", "B-B"]]
    figures = entity_metrics(true, guess)
    assert figures == pytest.approx({"precision": 1 / 4, "recall": 1 / 3, "f1": 2 / 7, "accuracy": 3 / 6})
    assert entity_metrics(true, true)["f1"] == 1.0
    assert entity_metrics([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}


def test_the_lexicon_has_entities_of_one_name_and_takes_the_longest() -> None:
    train = [
        Sentence(("New", "York", "and", "York"), ("B-LOC", "I-LOC", "O", "B-LOC"), 0),
        Sentence(("Anna", "Paris"), ("B-PER", "B-LOC"), 0),
        Sentence(("Paris",), ("B-PER",), 0),
    ]
    seen = entities_seen(train)
    assert seen == {("New", "York"): "LOC", ("York",): "LOC", ("Anna",): "PER"}
    assert looked_up(("New", "York", "York", "Paris", "Anna"), seen, 2) == ["B-LOC", "I-LOC", "B-LOC", "O", "B-PER"]
    assert looked_up(("a",), {}, 0) == ["O"]


def test_predictions_are_columns_that_can_be_read_again(tmp_path: Path) -> None:
    sentences = [
        Sentence(("New York", "is"), ("B-LOC", "O"), 0),
        Sentence(("\u00a0", "left"), ("O", "O"), 1),
        Sentence(("unknown",), None, 1),
    ]
    path = write_columns(tmp_path / "p.conll", sentences, [["B-LOC", "O"], ["O", "B-PER"], ["O"]])
    assert path.read_text() == (
        "New_York B-LOC B-LOC\nis O O\n\n-DOCSTART- O O\n\n_ O O\nleft O B-PER\n\nunknown O\n\n"
    )
    again = read_sentences(path, 0, -1, tags_required=True)
    assert [sentence.tags for sentence in again] == [("B-LOC", "O"), ("O", "B-PER"), ("O",)]


@pytest.mark.parity
def test_scores_are_those_of_seqeval_on_any_tags() -> None:
    metrics = pytest.importorskip("seqeval.metrics", reason="needs seqeval, of the extra parity")
    rng = random.Random(0)
    tags = ["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in "AB")]
    for _ in range(200):
        lengths = [rng.randint(1, 9) for _ in range(5)]
        true, guess = ([[rng.choice(tags) for _ in range(n)] for n in lengths] for _ in range(2))
        figures = entity_metrics(true, guess)
        assert figures.pop("accuracy") == pytest.approx(metrics.accuracy_score(true, guess))
        for name, value in figures.items():
            assert value == pytest.approx(getattr(metrics, f"{name}_score")(true, guess, zero_division=0))

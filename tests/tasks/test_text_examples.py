"""Examples of texts: read from files, and made features of."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import processors

from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.tasks import answers
from bertjax.tasks.batches import evaluation_batches, make_batch
from bertjax.tasks.squad import Question
from bertjax.tasks.text_examples import CheckLabel, Columns, Example, check_label, columns_of, features, read_examples
from tests.interop.folders import bpe_tokenizer
from tests.tasks.letters import Letters, example, readable


def known(*labels: str) -> CheckLabel:
    return functools.partial(check_label, labels=labels)


def test_reads_sentences_and_pairs(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("sentence1\tsentence2\tlabel\na b\tc\tyes\nd\te\t no\n")
    assert read_examples(path, Columns("sentence1", "sentence2")) == [
        Example("a b", "c", "yes", 0),
        Example("d", "e", "no", 1),
    ]
    assert read_examples(path, Columns("sentence2")) == [Example("c", None, "yes", 0), Example("e", None, "no", 1)]


def test_labels_of_json_are_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in (1, "b", True)))
    assert [e.label for e in read_examples(path, Columns())] == ["1", "b", "True"]


def test_labels_may_be_missing_where_nothing_is_learned_from_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\na\n")
    assert read_examples(path, Columns(), known("x"), label_required=False) == [Example("a", None, None, 0)]
    with pytest.raises(UserError, match="no column 'label'"):
        read_examples(path, Columns(), known("x"))
    path.write_text("text\tlabel\na\t\n")
    assert read_examples(path, Columns(), known("x"), label_required=False) == [Example("a", None, None, 0)]
    with pytest.raises(UserError, match=r"a.tsv:2: '' is not a label"):
        read_examples(path, Columns(), known("x"))


@pytest.mark.parametrize("unknown", [-1, "-", 0.5])
def test_labels_of_a_test_file_that_are_not_known_are_counted_and_taken_as_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unknown: object
) -> None:
    """As Hugging Face's copies of GLUE and SNLI's own files have them."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in (unknown, "x", unknown)))
    found = read_examples(path, Columns(), known("x"), label_required=False)
    assert [example.label for example in found] == [None, "x", None]
    told = capsys.readouterr().err
    assert told.startswith(f"{path}: 2 labels are taken as not known; the first: {path}:1: ")
    assert told.count("\n") == 1
    with pytest.raises(UserError, match="label"):
        read_examples(path, Columns(), known("x"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "label": "z"}, r"a.jsonl:1: unknown label 'z'; known are 'x', 'y'"),
        ({"text": "a", "label": 0.5}, r"a.jsonl:1: 0.5 is not a label"),
        ({"text": 7, "label": "x"}, r"a.jsonl:1: 7 is not a text"),
        ({"text": None, "label": "x"}, r"a.jsonl:1: column 'text' is null"),
        ({"text": "\ud800", "label": "x"}, r"a.jsonl:1: holds half of a surrogate pair"),
    ],
)
def test_mistakes_say_where(tmp_path: Path, row: dict[str, object], message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=message):
        read_examples(tmp_path / "a.jsonl", Columns(), known("x", "y"))


def test_a_pair_needs_both_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a", "second": None, "label": "x"}))
    with pytest.raises(UserError, match=r"a.jsonl:1: column 'second' is null"):
        read_examples(tmp_path / "a.jsonl", Columns(second="second"))


@pytest.mark.parametrize(
    ("text", "second", "tokens", "segments"),
    [
        ("abc", None, "[abc]", "00000"),
        ("abcdefghij", None, "[abcdef]", "00000000"),
        ("", None, "[]", "00"),
        ("ab", "cd", "[ab]cd]", "0000111"),
        ("abcdefg", "h", "[abcd]h]", "00000011"),  # the longer one gives
        ("ab", "cdefg", "[ab]cde]", "00001111"),
        ("abcd", "efgh", "[abc]ef]", "00000111"),  # of equal ones the second
        ("abc", "", "[abc]", "00000"),  # no second text
        ("", "cd", "[]cd]", "00111"),
    ],
)
def test_features_as_google_makes_them(text: str, second: str | None, tokens: str, segments: str) -> None:
    made = features([example(text, second, "x")], Letters(), 8, ["w", "x"])
    assert readable(made.ids[0]) == tokens
    assert "".join(map(str, made.segments[0])) == segments
    assert made.truncated == (len(text + (second or "")) > len(tokens.replace("[", "").replace("]", "")))
    assert made.targets["labels"].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "second", "tokens", "segments"),
    [
        ("  \x00a\ufffdb\u200b\tc\u00a0a\r\n", None, "[CLS] a ##b c a [SEP]", "000000"),  # cleaned; a space of any kind
        ("ÀB", "Ç a\u0301", "[CLS] a ##b [SEP] c a [SEP]", "0000111"),  # lower-cased, accents off
        ("a中国b", "a,b$c", "[CLS] a 中 国 [SEP] a , b [SEP]", "000001111"),
        ("[SEP]a", "[c]", "[CLS] [UNK] [UNK] [UNK] [SEP] [UNK] c [UNK] [SEP]", "000001111"),  # text is text
        ("axb cab", None, "[CLS] [UNK] c ##a ##b [SEP]", "000000"),  # no piece, no word
        ("a" * 200, "b" * 201, "[CLS] a ##a ##a ##a ##a [SEP] [UNK] [SEP]", "000000011"),  # the longest word
        ("a b c a b", "c b a c b", "[CLS] a b c [SEP] c b a [SEP]", "000001111"),
        ("a b c a", "c b a c b a c", "[CLS] a b c [SEP] c b a [SEP]", "000001111"),
        ("a", "c b a c b a c", "[CLS] a [SEP] c b a c b [SEP]", "000111111"),
        ("a b c a b c a b", None, "[CLS] a b c a b c a [SEP]", "000000000"),
        ("a", " \u200b\t", "[CLS] a [SEP]", "000"),  # a second text of nothing is none
        ("\u200b", "b", "[CLS] [SEP] b [SEP]", "0011"),
    ],
)
def test_features_of_nasty_texts_are_those_of_googles_script(
    tokenizer: Tokenizer, text: str, second: str | None, tokens: str, segments: str
) -> None:
    """Written by hand from what run_classifier.py and tokenization.py do, uncased, with --max_seq_length=9."""
    made = features([example(text, second, "x")], tokenizer, 9, ["x"])
    assert " ".join(tokenizer.piece(int(i)) for i in made.ids[0]) == tokens
    assert "".join(map(str, made.segments[0])) == segments
    (choice,) = evaluation_batches(made.lengths_N, 1, [9])
    batch = make_batch(made, choice, 1)
    assert batch["spans"][0].tolist() == [1] * len(segments) + [0] * (9 - len(segments))  # Google's input_mask
    assert batch["ids"][0, len(segments) :].tolist() == [tokenizer.pad_id] * (9 - len(segments))


def test_pairs_of_robertas_tokenizer_are_what_its_own_file_makes_of_them(tmp_path: Path) -> None:
    """It has two separators in the middle."""
    bpe_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, first, second = Tokenizer.load(tmp_path), "the old river", "a boat"
    pair, single = features([example(first, second), example(first)], tokenizer, 64, ()).ids
    assert pair.tolist() == backend.encode(first, second).ids
    assert single.tolist() == backend.encode(first).ids
    (cut,) = features([example(first, second)], tokenizer, len(pair) - 2, ()).ids
    assert (len(cut), cut.tolist().count(2)) == (len(pair) - 2, 3)
    _, made = answers.read([Question("q", first, second)], tokenizer, TaskDataConfig(seq_len=64))
    assert made.ids[0].tolist() == pair.tolist()


def test_an_unknown_label_is_minus_one() -> None:
    assert features([example("a"), example("b", label="w")], Letters(), 8, ["w", "x"]).targets["labels"].tolist() == [
        -1,
        0,
    ]


def test_no_row_of_a_test_file_is_left_out() -> None:
    data = TaskDataConfig(skip_bad_rows=True)
    assert columns_of(data).skip_bad
    assert columns_of(data, test=True).skip_bad is None


def test_a_test_file_may_have_its_text_elsewhere(tmp_path: Path) -> None:
    """CoLA's training file has numbered columns, its test file a header."""
    data = TaskDataConfig(text="3", label="1", test_text="sentence")
    (tmp_path / "train.tsv").write_text('\ufeffx1\t1\t\tIt rains.\r\nx1\t0\t*\tIt rain "now.\r\n')
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tIt snows.\n")
    assert read_examples(tmp_path / "train.tsv", columns_of(data)) == [
        Example("It rains.", None, "1", 0),
        Example('It rain "now.', None, "0", 1),
    ]
    test = read_examples(tmp_path / "test.tsv", columns_of(data, test=True), label_required=False)
    assert test == [Example("It snows.", None, None, 0)]

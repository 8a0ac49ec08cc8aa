from __future__ import annotations

import collections
import json
import lzma
import random
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax.errors import UserError
from bertjax.tasks.squad import (
    Answer,
    Question,
    Score,
    best_threshold,
    exact,
    f1,
    normalized,
    place_of,
    read_questions,
    score,
)
from tests.data.test_tfds_text import write_records

CONTEXT = "The miller found bread. The heron found the Old Bridge."


def squad(*asked: Any, context: Any = CONTEXT) -> dict[str, Any]:
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(asked)}]}]}


def ask(name: str = "a", *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": "What was found?", "answers": found} | more


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_reads_questions_plain_and_compressed(tmp_path: Path) -> None:
    value = squad(ask("a", ("bread", 17), ("the bread", 0)), ask("b", ("the Old Bridge", 40)))
    expected = [
        Question("a", "What was found?", CONTEXT, (Answer("bread", 17), Answer("the bread", 0))),
        Question("b", "What was found?", CONTEXT, (Answer("the Old Bridge", 40),)),
    ]
    assert read_questions(write(tmp_path / "a.json", value), answers_required=True) == expected
    (tmp_path / "a.json.xz").write_bytes(lzma.compress(json.dumps(value).encode()))
    assert read_questions(tmp_path / "a.json.xz", answers_required=True) == expected


def test_rows_of_a_jsonl_or_of_tfds_are_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = "What was found?", CONTEXT
    row: dict[str, Any] = dict(zip(("question", "context"), texts, strict=True))
    listed, side_by_side = [{"text": "bread", "answer_start": 17}], {"text": ["bread"], "answer_start": [17]}
    rows = [row | {"answers": listed}, row | {"id": "b", "answers": side_by_side}, row]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    answers = (Answer("bread", 17),)
    expected = [Question(name, *texts, found) for name, found in (("0", answers), ("b", answers), ("2", ()))]
    assert read_questions(path, answers_required=False) == expected
    path.write_text(json.dumps(row | {"answers": {"text": ["bread"], "answer_start": []}}))
    with pytest.raises(UserError, match=r"a.jsonl:1: answers have 1 texts and 0 starts"):
        read_questions(path, answers_required=True)

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    text = tfds.features.Text()
    features = {
        "id": text,
        "question": text,
        "context": text,
        "answers": tfds.features.Sequence({"text": text, "answer_start": np.int32}),
    }
    records = [row | {"id": "b", "answers": listed}, row | {"id": "c", "answers": []}]
    write_records(tmp_path / "rain" / "1.0.0", "train", features, [records])
    found = read_questions("tfds:rain#train", answers_required=False)
    assert found == [expected[1], Question("c", *texts, ())]


def official_words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def official_f1(prediction: str, truth: str) -> float:
    """Version 1.1's, written out anew."""
    ours, theirs = official_words(prediction), official_words(truth)
    same = sum((collections.Counter(ours) & collections.Counter(theirs)).values())
    if same == 0:
        return 0
    precision, recall = same / len(ours), same / len(theirs)
    return (2 * precision * recall) / (precision + recall)


def test_scores_are_the_official_ones_to_the_last_bit() -> None:
    rng = random.Random(0)
    parts = ["the", "an", "A", "old", "bridge", "Bridge!", "3,5", "é", "“x”", "a-b", "…", "\u00a0", "THE."]
    for _ in range(3000):
        one, other = (" ".join(rng.choices(parts, k=rng.randint(0, 9))) for _ in range(2))
        assert f1(one, other, unanswerable=False) == official_f1(one, other), (one, other)
        some_lack_words = not (official_words(one) and official_words(other))
        same = float(official_words(one) == official_words(other))
        assert exact(one, other) == same
        assert f1(one, other, unanswerable=True) == (same if some_lack_words else official_f1(one, other))


def test_questions_may_have_no_answer_where_that_is_asked_for(tmp_path: Path) -> None:
    plausible = {"is_impossible": True, "plausible_answers": [{"text": "bread", "answer_start": 17}]}
    without = {"id": "c", "question": "What?"}
    odd = ask("d", ("bread", 17), is_impossible=True)  # evaluate-v2.0.py looks at the answers only
    path = write(tmp_path / "a.json", squad(ask("a"), ask("b", **plausible), without, odd))
    found = [q.answers for q in read_questions(path, answers_required=False)]
    assert found == [(), (), (), (Answer("bread", 17),)]
    with pytest.raises(UserError, match=r"the question 'a' has no answer; use --data.unanswerable=True"):
        read_questions(path, answers_required=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"a.json has no 'data' \(list\); SQuAD's form is"),
        ({"data": []}, "a.json has no questions"),
        (squad(ask("a", ("bread", 17)), ask("a", ("bread", 17))), "the id 'a' comes twice"),
        (squad(ask("a", ("bread", 17)), context=" "), r"data\[0\].paragraphs\[0\]: the context is empty"),
        (squad(ask("a", ("bread", 17), question=" ")), r"qas\[0\]: the question is empty"),
        (squad(ask("a", ("bread", 17), id=7)), r"qas\[0\] has no 'id' \(str\)"),
        (squad(ask("a") | {"answers": {"text": ["bread"]}}), r"qas\[0\] has no 'answers' \(list\)"),
        (squad(None), r"qas\[0\] has no 'question' \(str\)"),
        (squad(ask("a", ("bread", "17"))), r"answers\[0\]: answer_start='17' is no whole number"),  # type: ignore[arg-type]
        (squad(ask("a") | {"answers": [3]}), r"answers\[0\] has no 'text'"),
        (squad(ask("a", ("bread", 17)), context="a \ud800"), r"paragraphs\[0\]: holds half of a surrogate pair"),
        (squad(ask("a\udfff", ("bread", 17))), r"qas\[0\]: holds half of a surrogate pair"),
        (squad(ask("a", ("\ud800", 17))), r"qas\[0\].answers\[0\]: holds half of a surrogate pair"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_questions(write(tmp_path / "a.json", value), answers_required=True)


def test_what_is_no_json_or_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"data": [')
    with pytest.raises(UserError, match=r"a.json: not JSON"):
        read_questions(tmp_path / "a.json", answers_required=True)
    with pytest.raises(UserError, match=r"nowhere.json does not exist"):
        read_questions(tmp_path / "nowhere.json", answers_required=True)


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (Answer("found", 11), 11),
        (Answer("found", 30), 34),  # the file is wrong by a few characters: the nearest occurrence
        (Answer("found", None), 11),
        (Answer(" bread ", 16), 17),
        (Answer("the old bridge", 40), None),
        (Answer("", 3), None),
    ],
)
def test_answers_are_found_where_they_stand(answer: Answer, place: int | None) -> None:
    assert place_of(answer, CONTEXT) == place


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Old\tBridge!", "old bridge"),
        ("a-an the", "aan"),  # punctuation goes first, then whole words that are articles
        ("$1,000.50", "100050"),
        ("theatre", "theatre"),
        ("“An”", "“ ”"),  # punctuation other than ASCII stays, and parts words
        ("the", ""),
    ],
)
def test_texts_are_normalized_as_by_the_official_evaluators(text: str, expected: str) -> None:
    assert normalized(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "same", "shared"),
    [
        ("the Old Bridge", "old bridge.", 1.0, 1.0),
        ("bridge", "the old bridge", 0.0, 2 / 3),
        ("old old bridge", "old bridge", 0.0, 0.8),  # a word counts as often as it comes
        ("river", "bridge", 0.0, 0.0),
    ],
)
def test_scores_of_pairs(prediction: str, answer: str, same: float, shared: float) -> None:
    assert exact(prediction, answer) == same
    for unanswerable in (False, True):
        assert f1(prediction, answer, unanswerable=unanswerable) == pytest.approx(shared)


def test_versions_differ_where_no_word_is_left() -> None:
    assert exact("the", "a") == 1.0
    assert f1("the", "a", unanswerable=False) == 0.0
    assert f1("the", "a", unanswerable=True) == 1.0
    assert f1("", "bread", unanswerable=True) == 0.0


def test_the_best_of_several_answers_counts_each_figure_by_itself() -> None:
    question = Question("a", "?", CONTEXT, (Answer("the heron", 24), Answer("heron found the Old Bridge", 28)))
    assert score("old bridge", question, unanswerable=False) == pytest.approx((0.0, 4 / 6))
    assert score("heron", question, unanswerable=False) == Score(1.0, 1.0)


def test_without_an_answer_the_empty_one_is_right() -> None:
    assert score("", Question("a", "?", CONTEXT), unanswerable=True) == Score(1.0, 1.0)
    assert score("bread", Question("a", "?", CONTEXT), unanswerable=True) == Score(0.0, 0.0)
    only_article = Question("a", "?", CONTEXT, (Answer("The", 0),))
    assert score("", only_article, unanswerable=True) == Score(1.0, 1.0)
    assert score("", Question("a", "?", CONTEXT, (Answer("bread", 17),)), unanswerable=True) == Score(0.0, 0.0)


def test_the_threshold_gains_most() -> None:
    answer = (Answer("bread", 17),)
    questions = [Question(name, "?", CONTEXT, answers) for name, answers in zip("abcd", [answer, (), answer, ()])]  # noqa: B905
    texts = dict.fromkeys("abcd", "bread")
    f1_of = lambda one: one.f1  # noqa: E731
    assert best_threshold(questions, texts, dict(zip("abcd", [-3.0, 1.0, -1.0, 2.0], strict=True)), f1_of) == -1.0
    # Equal doubts are answered together: here nothing is gained beyond the first.
    assert best_threshold(questions, texts, dict(zip("abcd", [-3.0, 1.0, 1.0, 1.0], strict=True)), f1_of) == -3.0
    # Where no answer is right, none is given.
    wrong = dict.fromkeys("abcd", "river")
    assert best_threshold(questions, wrong, dict.fromkeys("abcd", 0.5), f1_of) < 0.5

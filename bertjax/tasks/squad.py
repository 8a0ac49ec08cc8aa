"""SQuAD: its files of questions, and the scores of its official evaluators.

Source: Rajpurkar et al. 2016 (1.1) and 2018 (2.0); the behaviour of their evaluate-v1.1.py and evaluate-v2.0.py.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bertjax.data import documents
from bertjax.errors import UserError
from bertjax.tasks.tables import has_objects, read_rows

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Answer(NamedTuple):
    """An answer, and where it begins in the context (characters), None where the file does not say."""

    text: str
    start: int | None


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a text."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...] = ()
    """What people answered; none where the text holds no answer, or none is known. `is_impossible` has no say, as in
    evaluate-v2.0.py."""


def read_questions(path: str | Path, *, answers_required: bool) -> list[Question]:
    """Returns the questions of a SQuAD .json file, plain or compressed, or of a .jsonl or TFDS data set, in order.

    A row of the latter two has `question`, `context` and, if they are known, `id` and `answers`: a list of objects with
    `text` and `answer_start`, or an object with a list of each, as TFDS and Hugging Face have it.

    Raises: UserError, with the place, for a file of another form, an id that comes twice, an empty context, and where
    `answers_required` a question without an answer.
    """
    if has_objects(path):
        questions = list(_questions_of_rows(path))
    else:
        questions = list(_questions(Path(path), _read_json(Path(path))))
    if not questions:
        raise UserError(f"{path} has no questions")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"{path}: the id {question.id!r} comes twice; give each question its own")
        seen.add(question.id)
        if answers_required and not question.answers:
            raise UserError(
                f"{path}: the question {question.id!r} has no answer; use --data.unanswerable=True, as for SQuAD 2.0,"
                " if some have none"
            )
    return questions


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path} does not exist; name a .json file in SQuAD's form")
    text = "".join(line.text + line.end for line in documents.lines_of(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); name a .json file in SQuAD's form") from error


def _questions(path: Path, value: Any) -> Iterator[Question]:
    for i, article in enumerate(_get(value, "data", list, str(path))):
        for j, paragraph in enumerate(_get(article, "paragraphs", list, f"{path}: data[{i}]")):
            where = f"{path}: data[{i}].paragraphs[{j}]"
            context = _text(paragraph, "context", where)
            for k, asked in enumerate(_get(paragraph, "qas", list, where)):
                yield _question(asked, context, f"{where}.qas[{k}]")


def _questions_of_rows(path: str | Path) -> Iterator[Question]:
    keys = ("question", "context", "id", "answers")
    for number, row in enumerate(read_rows(path, keys[:2], keys[2:])):
        asked = dict(zip(keys, row.values, strict=True))
        asked["id"] = str(number if asked["id"] is None else asked["id"])
        asked["answers"] = _listed(asked["answers"], row.where)
        yield _question(asked, _text(asked, "context", row.where), row.where)


def _listed(answers: Any, where: str) -> Any:
    """Returns the answers as a list of objects, also where they are an object of lists."""
    if not isinstance(answers, dict):
        return [] if answers is None else answers
    texts, starts = (_get(answers, key, list, f"{where}, answers") for key in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise UserError(f"{where}: answers have {len(texts)} texts and {len(starts)} starts; give each both")
    return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]


def _question(asked: Any, context: str, where: str) -> Question:
    text = _text(asked, "question", where)
    given = _get(asked, "answers", list, where) if "answers" in asked else []
    answers = tuple(_answer(answer, f"{where}.answers[{n}]") for n, answer in enumerate(given))
    return Question(_get(asked, "id", str, where), text, context, answers)


def _answer(answer: Any, where: str) -> Answer:
    text = _get(answer, "text", str, where)
    start = answer.get("answer_start")
    if start is not None and (isinstance(start, bool) or not isinstance(start, int)):
        raise UserError(f"{where}: answer_start={start!r} is no whole number; count characters from 0, or leave it out")
    return Answer(text, start)


def _text(value: Any, key: str, where: str) -> str:
    """Returns a text that says something. Raises: UserError if it does not."""
    text: str = _get(value, key, str, where)
    if not text.strip():
        raise UserError(f"{where}: the {key} is empty; leave it out")
    return text


def _get(value: Any, key: str, kind: type, where: str) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        form = '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers": ...}]}]}]}'
        raise UserError(f"{where} has no {key!r} ({kind.__name__}); SQuAD's form is {form}")
    if isinstance(found, str):
        documents.check_whole(found, where)
    return found


def place_of(answer: Answer, context: str) -> int | None:
    """Returns where the answer's text begins: where the file says, else its nearest occurrence; None if it has none."""
    text, start = answer.text.strip(), answer.start or 0
    if answer.start is not None and start >= 0 and context.startswith(answer.text, start) and text:
        return start + answer.text.index(text)
    found = [match.start() for match in re.finditer(re.escape(text), context)] if text else []
    return min(found, key=lambda place: abs(place - start), default=None)


def normalized(text: str) -> str:
    """Returns the text in lower case without ASCII punctuation and articles, its white space single."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(prediction: str, answer: str) -> float:
    """Returns 1 if both are the same, normalized."""
    return float(normalized(prediction) == normalized(answer))


def f1(prediction: str, answer: str, *, unanswerable: bool) -> float:
    """Returns the F1 of the prediction's words against the answer's, each counted as often as it comes.

    Where one has no words it is 0 in version 1.1; in 2.0 (`unanswerable`) it is whether neither has.
    """
    predicted, true = normalized(prediction).split(), normalized(answer).split()
    if unanswerable and not (predicted and true):
        return float(predicted == true)
    common = sum((collections.Counter(predicted) & collections.Counter(true)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / len(true)
    return 2 * precision * recall / (precision + recall)  # in the evaluators' order, so that the last bit is theirs


class Score(NamedTuple):
    """How well a question was answered, each from 0 to 1."""

    exact: float
    f1: float


def score(prediction: str, question: Question, *, unanswerable: bool) -> Score:
    """Returns the best scores of the prediction against any of the answers; "" is that there is none."""
    answers = [answer.text for answer in question.answers]
    if unanswerable:
        answers = [answer for answer in answers if normalized(answer)] or [""]
    return Score(
        max(exact(prediction, answer) for answer in answers),
        max(f1(prediction, answer, unanswerable=unanswerable) for answer in answers),
    )


def is_answerable(question: Question) -> bool:
    """Returns whether there is an answer, as version 2.0 has it."""
    return bool(question.answers)


def best_threshold(
    questions: Sequence[Question],
    predictions: Mapping[str, str],
    doubts: Mapping[str, float],
    metric: Callable[[Score], float],
) -> float:
    """Returns the most doubt with which a question should be answered for the highest mean score, a saved figure.

    `predictions` are the best answers that are none of "", `doubts` how much more the model likes to give none.
    Source: find_best_thresh of evaluate-v2.0.py. Differs from: that takes a threshold between equal doubts, too.
    """
    ordered = sorted(questions, key=lambda question: doubts[question.id])
    gained, best, threshold = 0.0, 0.0, min(doubts.values()) - 1.0
    for i, question in enumerate(ordered):
        doubt = doubts[question.id]
        answered = metric(score(predictions[question.id], question, unanswerable=True))
        gained += answered - metric(score("", question, unanswerable=True))
        last_of_equals = i + 1 == len(ordered) or doubts[ordered[i + 1].id] > doubt
        if last_of_equals and gained > best:
            best, threshold = gained, doubt
    return threshold

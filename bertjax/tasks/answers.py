"""Answers to questions as spans of a text (SQuAD): windows over it, head, loss, the best spans, predictions.

Shape letters: B batch (rows), S position, C classes (start, end), T tokens of a context, W of a window, K of an answer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import hosts
from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model import layers
from bertjax.model.assembly import Assembly, Blueprint, classifier_heads
from bertjax.tasks import squad
from bertjax.tasks.batches import Features
from bertjax.tasks.squad import Question, Score
from bertjax.tasks.task import Chosen, Outputs, Part, Task, drawn, files_of
from bertjax.tasks.text_examples import say_absent
from bertjax.tasks.windows import Window, say_apart, widest_view, windows_over
from bertjax.training.losses import Sums, cross_entropy_sums

LABELS = ("start", "end")
BEST = 20  # answers of a question in the file of the best, as in Google's code


@dataclasses.dataclass(frozen=True)
class Reading:
    """A question as the model reads it: a row for each window over the context."""

    question: Question
    offsets_T2: np.ndarray
    """Where each of the context's tokens begins and ends in it (characters)."""
    windows: list[Window]
    rows: slice
    """The windows' rows among the file's."""
    place: int
    """Position in its row at which a window begins, behind [CLS] question [SEP]."""


class Span(NamedTuple):
    """An answer: characters `start` to `end` of the context, and the sum of the logits that it starts and ends so."""

    text: str
    start: int
    end: int
    score: float


class Candidates(NamedTuple):
    """The best answers to a question, best first and of different texts, and the score of none: that of [CLS]."""

    spans: list[Span]
    none: float

    @property
    def doubt(self) -> float:
        """How much better none scores than the best answer."""
        return self.none - self.spans[0].score if self.spans else -layers.LARGE_NEGATIVE


def make_task(data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Task:
    """Returns the task of finding the answers of SQuAD's files.

    Raises: UserError, with the place, for what is wrong in a file.
    """
    if data.examples_per_class is not None:
        raise UserError(f"data.examples_per_class={data.examples_per_class}, but answers are no classes; leave it out")
    parts = {name: _part(name, path, data, tokenizer, seed) for name, path in files_of(data).items()}
    find = functools.partial(best_spans, longest=data.max_answer)
    unanswered = np.mean([not squad.is_answerable(reading.question) for reading in parts["validation"].examples])
    if data.unanswerable:
        shares = {"unanswerable": unanswered, "answerable": 1 - unanswered}
        say_absent(data.validation, {kind for kind, share in shares.items() if not share})
    return Task(
        labels=LABELS,
        metrics=("f1", "exact"),
        parts=parts,
        baselines={"never_answer_f1": float(unanswered)} if data.unanswerable else {},
        make_model=lambda c, _, rngs: Assembly(
            Blueprint(c, classifier_heads(c, "answers"), "answers", LABELS), rngs=rngs
        ),
        loss=answers_loss,
        outputs=logits,
        choose=functools.partial(_threshold, find) if data.unanswerable else lambda *_: {},
        figures=functools.partial(_figures, find),
        write=functools.partial(write_predictions, find),
    )


def _part(name: str, path: str, data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Part:
    required = name != "test" and not data.unanswerable
    questions = squad.read_questions(path, answers_required=required)
    absent = [q for q in questions if q.answers and not any(_occurs(a, q.context, tokenizer) for a in q.answers)]
    if absent:
        shown = ", ".join(f"{q.id} ({q.answers[0].text!r})" for q in absent[:3])
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        what = "they are left out" if name == "train" else "they count all the same"
        hosts.say(
            f"{name}: {len(absent)} questions without an answer that is tokens of their text, {what}: {shown}{more}"
        )
    if name == "train":
        gone = {q.id for q in absent}
        questions = drawn([q for q in questions if q.id not in gone], data.examples, seed)
    readings, features = read(questions, tokenizer, data)
    blank = sum(not len(reading.offsets_T2) for reading in readings)
    say_apart(name, "questions", (reading.windows for reading in readings), data.stride)
    starts_N, learned = features.targets["start"], readings if name == "train" else []
    in_parts = sum(bool(r.question.answers) and not starts_N[r.rows].any() for r in learned)
    for count, what in (
        (features.truncated, f"questions cut to {data.question_len} tokens"),
        (blank, "questions about texts without any token: they are not answered"),
        (in_parts, "answers are whole in no window and learned as none; use less --data.stride or more --data.seq_len"),
    ):
        if count:
            hosts.say(f"{name}: {count} {what}")
    return Part(readings, features)


def _occurs(answer: squad.Answer, context: str, tokenizer: Tokenizer) -> bool:
    """Returns whether the answer stands in the text and the tokenizer leaves something of it."""
    return squad.place_of(answer, context) is not None and len(tokenizer.encode(answer.text)) > 0


def read(questions: Sequence[Question], tokenizer: Tokenizer, data: TaskDataConfig) -> tuple[list[Reading], Features]:
    """Returns the questions as rows [CLS] question [SEP] window [SEP], `start` and `end` an answer's positions.

    A tokenizer may have two [SEP] in the middle, as RoBERTa's. The answer is the first that occurs. The positions are
    0, that of [CLS], where a window does not hold the whole answer.
    Source: google-research/bert, run_squad.py, convert_examples_to_features.
    """
    rows: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    targets: list[tuple[int, int]] = []
    readings, cut = [], 0
    tokens_of = functools.lru_cache(maxsize=1)(functools.partial(_context_tokens, tokenizer))  # questions share one
    for question in questions:
        ids_T, offsets_T2 = tokens_of(question.context)
        asked = tokenizer.encode(question.question)
        cut += len(asked) > data.question_len
        head = np.array([tokenizer.cls_id, *asked[: data.question_len], *tokenizer.between_ids], np.int32)
        windows = windows_over(len(ids_T), _room(data.seq_len, len(head)), data.stride)
        readings.append(Reading(question, offsets_T2, windows, slice(len(rows), len(rows) + len(windows)), len(head)))
        answer = answer_tokens(question, offsets_T2)
        for window in windows:
            tail = np.append(ids_T[window.first : window.first + window.size], np.int32(tokenizer.sep_id))
            rows.append(np.concatenate([head, tail]))
            segments.append(np.repeat(np.array([0, 1], np.int32), [len(head), len(tail)]))
            targets.append(_target(answer, window, len(head)))
    starts_N, ends_N = np.array(targets, np.int32).reshape(-1, 2).T
    return readings, Features(rows, segments, {"start": starts_N, "end": ends_N}, tokenizer.pad_id, cut)


def _context_tokens(tokenizer: Tokenizer, context: str) -> tuple[np.ndarray, np.ndarray]:
    ids, _, offsets = tokenizer.encode_with_offsets(context)
    return np.array(ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2)


def _room(seq_len: int, taken: int) -> int:
    room = seq_len - taken - 1
    if room < 1:
        raise UserError(
            f"data.seq_len={seq_len} leaves no room for a text behind a question of {taken} tokens with [CLS]"
            " and [SEP]; use more, or less data.question_len"
        )
    return room


def answer_tokens(question: Question, offsets_T2: np.ndarray) -> tuple[int, int] | None:
    """Returns the first and the last token that have a part in the first answer that occurs; None if none does."""
    for answer in question.answers:
        start = squad.place_of(answer, question.context)
        if start is None:
            continue
        end = start + len(answer.text.strip())
        first = int(np.searchsorted(offsets_T2[:, 1], start, side="right"))
        last = int(np.searchsorted(offsets_T2[:, 0], end, side="left")) - 1
        if first <= last:
            return first, last
    return None


def _target(answer: tuple[int, int] | None, window: Window, place: int) -> tuple[int, int]:
    if answer is None or answer[0] < window.first or answer[1] >= window.first + window.size:
        return 0, 0
    return place + answer[0] - window.first, place + answer[1] - window.first


def logits(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns logits_BSC, float32, of padding so low that it has no probability."""
    rows = batch["ids"], batch["segments"], batch["positions"], batch["spans"]
    x_BSD = model.encoder(*rows, key=key, most_spans=1)
    logits_BSC = model.token_logits(x_BSD).astype(jnp.float32)
    return jnp.where(batch["spans"][..., None] > 0, logits_BSC, layers.LARGE_NEGATIVE)


def answers_loss(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the mean of the cross entropies (nats) of start and end over positions, and the accuracy of each.

    Source: google-research/bert, run_squad.py, model_fn_builder.
    """
    logits_BSC = logits(model, batch, key)
    sums: Sums = {}
    for c, label in enumerate(LABELS):
        sums |= cross_entropy_sums(logits_BSC[..., c], batch[label], batch["weights"], f"{label}_")
    (start, weight), (end, _) = sums.pop("start_loss"), sums.pop("end_loss")
    return sums | {"loss": ((start + end) / 2, weight)}


def best_spans(reading: Reading, outputs: Outputs, *, longest: int, most: int = 1) -> Candidates:
    """Returns the best `most` answers of at most `longest` tokens over all windows, each starting where that sees most.

    Source: google-research/bert, run_squad.py, write_predictions. Differs from: that looks only at the 20 best starts
    and the 20 best ends of a window.
    """
    speaks_T = widest_view(reading.windows, len(reading.offsets_T2))
    found: list[tuple[float, int, int]] = []
    for w, (window, logits_SC) in enumerate(zip(reading.windows, outputs[reading.rows], strict=True)):
        if not window.size:  # a context without tokens, such as one of invisible characters: it holds no answer
            continue
        start_W, end_W = logits_SC[reading.place : reading.place + window.size].T.astype(np.float64)
        start_W = np.where(speaks_T[window.first : window.first + window.size] == w, start_W, -np.inf)
        padded = np.concatenate([end_W, np.full(longest - 1, -np.inf)])
        score_WK = start_W[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)[: window.size]
        for flat in _highest(score_WK.ravel(), most):
            start, more = divmod(int(flat), longest)
            found.append((float(score_WK[start, more]), window.first + start, window.first + start + more))
    none = min(float(logits_SC[0].astype(np.float64).sum()) for logits_SC in outputs[reading.rows])
    return Candidates(_distinct(reading, found, most), none)


def _highest(scores: np.ndarray, most: int) -> np.ndarray:
    """Returns the places of the highest finite scores, the first of equals first."""
    chosen = np.arange(len(scores)) if len(scores) <= most else np.argpartition(-scores, most - 1)[:most]
    chosen = chosen[np.isfinite(scores[chosen])]
    return chosen[np.lexsort((chosen, -scores[chosen]))]


def _distinct(reading: Reading, found: list[tuple[float, int, int]], most: int) -> list[Span]:
    spans: dict[str, Span] = {}
    for score, first, last in sorted(found, key=lambda one: (-one[0], one[1:])):
        start, end = int(reading.offsets_T2[first, 0]), int(reading.offsets_T2[last, 1])
        raw = reading.question.context[start:end]
        text = raw.strip()
        start += len(raw) - len(raw.lstrip())
        if text and text not in spans:
            spans[text] = Span(text, start, start + len(text), score)
    return list(spans.values())[:most]


Find = Callable[..., Candidates]


def _best(find: Find, part: Part, outputs: Outputs) -> tuple[dict[str, str], dict[str, float]]:
    """Returns each question's best answer and the doubt about it, by its id."""
    found = {reading.question.id: find(reading, outputs) for reading in part.examples}
    return {i: one.spans[0].text if one.spans else "" for i, one in found.items()}, {
        i: one.doubt for i, one in found.items()
    }


def _threshold(find: Find, part: Part, outputs: Outputs) -> Chosen:
    """Returns the threshold of doubt, above which no answer is given, with the best F1."""
    questions = [reading.question for reading in part.examples]
    return {"threshold": squad.best_threshold(questions, *_best(find, part, outputs), lambda score: score.f1)}


def _decided(find: Find, part: Part, outputs: Outputs, chosen: Chosen) -> dict[str, str]:
    texts, doubts = _best(find, part, outputs)
    threshold = chosen.get("threshold", float("inf"))
    return {i: text if doubts[i] <= threshold else "" for i, text in texts.items()}


def _figures(find: Find, part: Part, outputs: Outputs, chosen: Chosen) -> dict[str, float]:
    """Returns the loss and the mean scores, with a threshold also of the questions with and without an answer."""
    unanswerable = "threshold" in chosen
    decided = _decided(find, part, outputs, chosen)
    questions = [reading.question for reading in part.examples]
    scores = [squad.score(decided[q.id], q, unanswerable=unanswerable) for q in questions]
    figures = {"loss": _loss(part.features, outputs)} | _means(scores, "")
    if unanswerable:
        answerable = [squad.is_answerable(q) for q in questions]
        figures |= _means([s for s, yes in zip(scores, answerable, strict=True) if yes], "answerable_")
        figures |= _means([s for s, yes in zip(scores, answerable, strict=True) if not yes], "unanswerable_")
    return figures


def _means(scores: Sequence[Score], prefix: str) -> dict[str, float]:
    if not scores:
        return {}
    return {f"{prefix}{name}": float(np.mean([getattr(s, name) for s in scores])) for name in Score._fields}


def _loss(features: Features, outputs: Outputs) -> float:
    """Returns the loss of training, the mean over rows."""
    lost = []
    for row, logits_SC in enumerate(outputs):
        wide_SC = logits_SC.astype(np.float64)
        log_total_C = np.logaddexp.reduce(wide_SC, axis=0)
        lost += [log_total_C[c] - wide_SC[features.targets[label][row], c] for c, label in enumerate(LABELS)]
    return float(np.mean(lost))


def write_predictions(find: Find, path: Path, part: Part, outputs: Outputs, chosen: Chosen) -> Path:
    """Writes .json, {id: answer} as the evaluators read it, and -nbest.json; with a threshold, -doubts.json.

    The last is what evaluate-v2.0.py takes as --na-prob-file, with --na-prob-thresh=THRESHOLD: its own is 1.0, for
    probabilities, and these are differences of logits. Returns the path of the first.
    """
    best = {reading.question.id: find(reading, outputs, most=BEST) for reading in part.examples}
    with_none = "threshold" in chosen
    _write_json(path.with_suffix(".json"), _decided(find, part, outputs, chosen))
    _write_json(Path(f"{path}-nbest.json"), {i: n_best(found, with_none=with_none) for i, found in best.items()})
    if with_none:
        _write_json(Path(f"{path}-doubts.json"), {i: found.doubt for i, found in best.items()})
    return path.with_suffix(".json")


def n_best(found: Candidates, *, with_none: bool) -> list[dict[str, Any]]:
    """Returns the candidates as JSON, best first, their probabilities adding up to 1; with none, its text is ""."""
    spans = [*found.spans, Span("", 0, 0, found.none)] if with_none or not found.spans else found.spans
    spans = sorted(spans, key=lambda span: -span.score)
    odds = np.exp(np.array([span.score - spans[0].score for span in spans]))
    return [span._asdict() | {"probability": float(p)} for span, p in zip(spans, odds / odds.sum(), strict=True)]


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

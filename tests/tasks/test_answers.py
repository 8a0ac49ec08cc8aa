from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bertjax
import finetune
from bertjax import cli, pretrained
from bertjax.config import FinetuneConfig, MeshConfig, ModelConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model.assembly import Assembly, Blueprint
from bertjax.sharding import make_mesh
from bertjax.tasks import squad
from bertjax.tasks.answers import (
    LABELS,
    Reading,
    answer_tokens,
    answers_loss,
    best_spans,
    logits,
    make_task,
    n_best,
    read,
)
from bertjax.tasks.batches import evaluation_batches, make_batch
from bertjax.tasks.squad import Answer, Question
from bertjax.tasks.windows import windows_over
from bertjax.training.losses import objective
from bertjax.training.step import fresh_params, make_forward, to_mesh
from tests.conftest import OBJECTS, SUBJECTS, VERBS

CONTEXT = "The old river carries\ta small boat. A grey heron watches it."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    words = ["the", "old", "river", "carries", "a", "small", "boat", "grey", "heron", "watch", "who", "what", "?", "."]
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "##es"]) + "\n")
    return Tokenizer.from_vocab(path)


def question(answer: str | None = None, name: str = "q", context: str = CONTEXT) -> Question:
    answers = () if answer is None else (Answer(answer, context.index(answer)),)
    return Question(name, "Who watches?", context, answers)


def test_a_row_is_question_and_window(tokenizer: Tokenizer) -> None:
    data = TaskDataConfig(seq_len=14, stride=4)
    (reading,), made = read([question("grey heron")], tokenizer, data)
    pieces = [" ".join(tokenizer.piece(int(i)) for i in row) for row in made.ids]
    assert pieces == [
        "[CLS] who watch ##es ? [SEP] the old river carries a small boat [SEP]",
        "[CLS] who watch ##es ? [SEP] a small boat . a grey heron [SEP]",
        "[CLS] who watch ##es ? [SEP] a grey heron watch ##es [UNK] . [SEP]",
    ]
    assert [row.tolist() for row in made.segments] == [[0] * 6 + [1] * (len(row) - 6) for row in made.ids]
    assert made.targets["start"].tolist() == [0, 11, 7]
    assert made.targets["end"].tolist() == [0, 12, 8]
    assert (reading.rows, reading.place) == (slice(0, 3), 6)


def test_targets_cover_the_answer(tokenizer: Tokenizer) -> None:
    for answer in ("The", "carries\ta small boat", "watches", "heron watches it.", "iver carr"):
        asked = question(answer)
        (reading,), _ = read([asked], tokenizer, TaskDataConfig(seq_len=64))
        tokens = answer_tokens(asked, reading.offsets_T2)
        assert tokens is not None
        covered = CONTEXT[reading.offsets_T2[tokens[0], 0] : reading.offsets_T2[tokens[1], 1]]
        assert answer in covered
        assert len(covered.split()) == len(answer.split())


def test_long_questions_are_cut_and_counted_and_leave_room(tokenizer: Tokenizer) -> None:
    asked = Question("q", "who " * 30, CONTEXT)
    (reading,), made = read([asked], tokenizer, TaskDataConfig(seq_len=32, question_len=10))
    assert made.truncated == 1
    assert reading.place == 12
    with pytest.raises(UserError, match=r"data.seq_len=32 leaves no room for a text behind a question of 32 tokens"):
        read([asked], tokenizer, TaskDataConfig(seq_len=32))


def test_no_answer_points_to_the_beginning(tokenizer: Tokenizer) -> None:
    _, made = read([question()], tokenizer, TaskDataConfig(seq_len=64))
    assert made.targets["start"].tolist() == made.targets["end"].tolist() == [0]


def reading_of(length: int, room: int, stride: int) -> Reading:
    """A context of one-letter words."""
    context = " ".join("abcdefghijklmnopqrstuvwxyz"[:length])
    offsets_T2 = np.array([(2 * i, 2 * i + 1) for i in range(length)])
    windows = windows_over(length, room, stride)
    return Reading(Question("q", "?", context), offsets_T2, windows, slice(0, len(windows)), 3)


def test_the_best_spans_are_those_of_a_plain_search() -> None:
    reading = reading_of(14, 8, 4)
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(3 + window.size + 1, 2)).astype(np.float32) for window in reading.windows]
    speaks = {}
    for token in range(14):
        views = [(min(token - w.first, w.first + w.size - 1 - token) + 0.01 * w.size, -i) if w.first <= token < w.first
                 + w.size else (-1.0, -i) for i, w in enumerate(reading.windows)]  # fmt: skip
        speaks[token] = -max(views)[1]
    expected: dict[str, float] = {}
    for w, window in enumerate(reading.windows):
        for start, end in itertools.product(range(window.size), repeat=2):
            if start <= end < start + 5 and speaks[window.first + start] == w:
                text = reading.question.context[2 * (window.first + start) : 2 * (window.first + end) + 1]
                score = float(outputs[w][3 + start, 0]) + float(outputs[w][3 + end, 1])
                expected[text] = max(score, expected.get(text, -np.inf))
    best = sorted(expected.items(), key=lambda item: -item[1])
    found = best_spans(reading, outputs, longest=5, most=20)
    assert [(span.text, pytest.approx(span.score)) for span in found.spans] == best[:20]
    assert all(reading.question.context[span.start : span.end] == span.text for span in found.spans)
    assert found.none == pytest.approx(min(float(row[0].sum()) for row in outputs))
    assert found.doubt == pytest.approx(found.none - best[0][1])
    assert best_spans(reading, outputs, longest=5).spans == found.spans[:1]


def test_a_repeated_text_is_one_answer_and_probabilities_add_up() -> None:
    reading = reading_of(3, 8, 4)
    reading = dataclasses.replace(reading, question=Question("q", "?", "a b a"))
    outputs = [np.array([[-1, -1], [9, 9], [9, 9], [3, 3], [0, 0], [2, 2], [9, 9]], np.float32)]
    found = best_spans(reading, outputs, longest=1, most=20)
    assert [(span.text, span.start, span.score) for span in found.spans] == [("a", 0, 6.0), ("b", 2, 0.0)]
    listed = n_best(found, with_none=True)
    assert [one["text"] for one in listed] == ["a", "b", ""]
    assert sum(one["probability"] for one in listed) == pytest.approx(1.0)
    assert [one["text"] for one in n_best(found, with_none=False)] == ["a", "b"]


MODEL = ModelConfig(vocab_size=100, width=16, layers=1, heads=2, mlp_width=32, max_positions=64)


def test_loss_is_that_of_start_and_end_and_padding_is_invisible(tokenizer: Tokenizer) -> None:
    questions = [question("grey heron", "a"), question("The", "b"), question(None, "c", "A boat.")]
    _, made = read(questions, tokenizer, TaskDataConfig(seq_len=64))
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])

    def make_model(rngs: nnx.Rngs) -> Assembly:
        return Assembly(Blueprint(MODEL, ("classifier",), "answers", LABELS), rngs=rngs)

    with jax.set_mesh(mesh):
        forward = make_forward(make_model, lambda m, b: (answers_loss(m, b, None), logits(m, b)), "float32")
        params, losses, found = fresh_params(make_model, 0), [], {}
        for length in (32, 64):
            (choice,) = evaluation_batches(made.lengths_N, 8, [32])
            batch = to_mesh(make_batch(made, choice._replace(length=length), 8), mesh)
            sums, logits_BSC = forward(params, batch)
            losses.append(float(objective(sums)))
            for row, i in enumerate(choice.indices):
                found[length, int(i)] = np.asarray(logits_BSC)[row]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    by_hand = []
    for i in range(3):
        log_p_SC = np.asarray(jax.nn.log_softmax(found[64, i], axis=0))
        by_hand += [-log_p_SC[made.targets["start"][i], 0], -log_p_SC[made.targets["end"][i], 1]]
    assert losses[0] == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert float(sums["loss"][1]) == 3


def write(path: Path, asked: int, seed: int, *, unanswerable: bool = False) -> Path:
    """Writes stories, who is in them and what comes last; or when, which none of them tells."""
    rng = random.Random(seed)
    paragraphs = []
    for i in range(asked):
        subject, thing = rng.choice(SUBJECTS).capitalize(), rng.choice(OBJECTS)
        context = f"{subject} {rng.choice(VERBS)} {rng.choice(OBJECTS)} and {thing}."
        answer = rng.choice([subject, thing, None] if unanswerable else [subject, thing])
        asking = {subject: "the tall?", thing: "a bread boat?", None: "bright lamp morning?"}[answer]
        answers = [] if answer is None else [{"text": answer, "answer_start": context.rindex(answer)}]
        qa = {"id": f"{seed}-{i}", "question": asking, "answers": answers, "is_impossible": answer is None}
        paragraphs.append({"context": context, "qas": [qa]})
    path.write_text(json.dumps({"version": "x", "data": [{"title": "", "paragraphs": paragraphs}]}))
    return path


def config(finished: Path, directory: Path, *, unanswerable: bool) -> FinetuneConfig:
    made = functools.partial(write, unanswerable=unanswerable)
    return FinetuneConfig(
        task="answers",
        init_from=str(finished),
        data=TaskDataConfig(
            train=str(made(directory / "train.json", 300, 1)),
            validation=str(made(directory / "validation.json", 60, 2)),
            test=str(made(directory / "test.json", 20, 3)),
            seq_len=24,
            stride=12,
            unanswerable=unanswerable,
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=4, batch_size=16),
    )


@pytest.mark.parametrize("unanswerable", [False, True])
def test_it_learns_to_answer_and_hands_in_what_the_evaluators_read(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], unanswerable: bool
) -> None:
    figures = finetune.run(config(finished, tmp_path, unanswerable=unanswerable), tmp_path / "run")
    assert figures["f1"] > 0.6
    predictions = json.loads((tmp_path / "run" / "predictions-validation.json").read_text())
    questions = squad.read_questions(tmp_path / "validation.json", answers_required=not unanswerable)
    scores = [squad.score(predictions[q.id], q, unanswerable=unanswerable) for q in questions]
    assert figures["exact"] == pytest.approx(np.mean([one.exact for one in scores]))
    assert figures["f1"] == pytest.approx(np.mean([one.f1 for one in scores]))
    best = json.loads((tmp_path / "run" / "predictions-test-nbest.json").read_text())
    decided = json.loads((tmp_path / "run" / "predictions-test.json").read_text())
    assert decided.keys() == best.keys() == {f"3-{i}" for i in range(20)}
    model = bertjax.load(tmp_path / "run")
    asked = squad.read_questions(tmp_path / "test.json", answers_required=False)
    answers = model.answer_all([(q.question, q.context) for q in asked])
    assert [one["answer"] for one in answers] == [decided[q.id] for q in asked]
    assert all(q.context[one["start"] : one["end"]] == one["answer"] for q, one in zip(asked, answers, strict=True))
    assert model.answer(asked[0].question, asked[0].context) == pytest.approx(answers[0])
    assert all(0 < one["probability"] <= 1 for one in answers)
    line = f"{asked[0].question}\t{asked[0].context}"
    capsys.readouterr()
    cli.Predict("answer", (line,), str(tmp_path / "run")).run()
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["answer"]) == (line, answers[0]["answer"])
    with pytest.raises(UserError, match="'a text' has no tab; write a question, a tab"):
        cli.Predict("answer", ("a text",), str(tmp_path / "run")).run()
    with pytest.raises(UserError, match="this model has no classes"):
        model.classify("a text")
    if not unanswerable:
        assert "threshold" not in figures
        assert all(best[name][0]["text"] == text for name, text in decided.items())
        return
    doubts = json.loads((tmp_path / "run" / "predictions-test-doubts.json").read_text())
    for name, text in decided.items():
        assert (text == "") == (doubts[name] > figures["threshold"])
    assert figures["f1"] > figures["never_answer_f1"]
    assert {"answerable_f1", "unanswerable_exact"} <= figures.keys()
    pretrained.export_folder(tmp_path / "run", tmp_path / "hf")
    pretrained.import_folder(tmp_path / "hf", tmp_path / "imported")
    for folder in ("run", "hf", "imported"):
        assert bertjax.load(tmp_path / folder).threshold == figures["threshold"]


def test_a_text_without_tokens_has_no_answer(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"question": "Who?", "context": CONTEXT, "answers": [{"text": "grey heron", "answer_start": 41}]}]
    rows.append({"question": "Who?", "context": "\u200b", "answers": [{"text": "\u200b", "answer_start": 0}]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = make_task(TaskDataConfig(train=str(path), validation=str(path)), tokenizer, 0)
    told = capsys.readouterr().err.splitlines()
    assert "validation: 1 questions about texts without any token: they are not answered" in told
    said = "1 questions without an answer that is tokens of their text"
    assert f"train: {said}, they are left out: 1 ('\\u200b')" in told
    assert f"validation: {said}, they count all the same: 1 ('\\u200b')" in told
    assert len(task.parts["train"].examples) == 1
    part = task.parts["validation"]
    outputs = [np.zeros((len(ids), 2), np.float32) for ids in part.features.ids]
    assert best_spans(part.examples[1], outputs, longest=30).spans == []
    figures = task.figures(part, outputs, {})
    assert 0 <= figures["f1"] < 1
    best = json.loads(task.write(tmp_path / "predictions", part, outputs, {}).read_text())
    assert best["1"] == ""


def test_answers_that_do_not_occur_are_counted_and_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: Tokenizer
) -> None:
    c = config(finished, tmp_path, unanswerable=False)
    value = json.loads((tmp_path / "train.json").read_text())
    value["data"][0]["paragraphs"][7]["qas"][0]["answers"][0]["text"] = "nobody"
    (tmp_path / "train.json").write_text(json.dumps(value))
    task = make_task(dataclasses.replace(c.data, examples=50), tokenizer, 0)
    said = "questions without an answer that is tokens of their text"
    assert f"train: 1 {said}, they are left out: 1-7 ('nobody')\n" in capsys.readouterr().err
    assert len(task.parts["train"].examples) == 50
    assert len(make_task(c.data, tokenizer, 0).parts["train"].examples) == 299
    for paragraph in value["data"][0]["paragraphs"][:5]:
        paragraph["qas"][0]["answers"][0]["text"] = "nobody"
    (tmp_path / "train.json").write_text(json.dumps(value))
    assert len(make_task(c.data, tokenizer, 0).parts["train"].examples) == 294
    assert f"train: 6 {said}" in (told := capsys.readouterr().err)
    assert "1-2 ('nobody') and 3 more\n" in told


def test_the_first_answer_that_occurs_is_learned(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"text": text, "answer_start": 0} for text in ("nobody", "\u200b", "grey heron", "The")]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "Who?", "context": f"{CONTEXT}\u200b", "answers": answers}))
    task = make_task(TaskDataConfig(train=str(path), validation=str(path)), tokenizer, 0)
    assert capsys.readouterr().err == ""
    targets = task.parts["train"].features.targets
    assert (targets["start"].tolist(), targets["end"].tolist()) == ([4 + 9], [4 + 10])


def test_windows_that_do_not_overlap_and_answers_that_they_part_are_counted(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = "boat. A grey"
    path = tmp_path / "a.jsonl"
    row = {"question": "Who?", "context": CONTEXT, "answers": [{"text": answer, "answer_start": CONTEXT.index(answer)}]}
    path.write_text(json.dumps(row))
    data = TaskDataConfig(train=str(path), validation=str(path), seq_len=13)  # [CLS] who ? [SEP] 8 [SEP]
    make_task(data, tokenizer, 0)
    apart = "1 questions with windows that do not overlap, as data.stride=128; use --data.stride=4"
    parted = "1 answers are whole in no window and learned as none; use less --data.stride or more --data.seq_len"
    assert capsys.readouterr().err.splitlines() == [f"train: {apart}", f"train: {parted}", f"validation: {apart}"]
    make_task(dataclasses.replace(data, stride=4), tokenizer, 0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("answered", "absent"), [(True, "unanswerable"), (False, "answerable")])
def test_a_kind_of_question_that_the_validation_file_lacks_is_said(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str], answered: bool, absent: str
) -> None:
    path = tmp_path / "a.jsonl"
    answers = [{"text": "heron", "answer_start": 0}] if answered else []
    path.write_text(json.dumps({"question": "Who?", "context": CONTEXT, "answers": answers}))
    make_task(TaskDataConfig(train=str(path), validation=str(path), unanswerable=True), tokenizer, 0)
    assert capsys.readouterr().err == f"{path} has no example of '{absent}'\n"


def test_classes_cannot_be_asked_for(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="examples_per_class=5, but answers are no classes"):
        make_task(TaskDataConfig(examples_per_class=5), tokenizer, 0)

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from bertjax import streaming
from bertjax.errors import UserError
from bertjax.streaming import stream


def lengths(texts: list[str]) -> list[int]:
    for i, text in enumerate(texts):
        if not text:
            raise UserError(f"texts[{i}] is empty")
    return [len(text) for text in texts]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_every_text_has_its_answer_in_order(count: int) -> None:
    texts = ["a" * (1 + i * 7 % 5) for i in range(count)]
    assert list(stream(lengths, iter(texts), chunk=4)) == [(text, len(text)) for text in texts]


def test_an_endless_stream_is_read_a_chunk_at_a_time() -> None:
    read = []

    def texts() -> Iterator[str]:
        for i in itertools.count(1):
            read.append(i)
            yield "a" * i

    answers = stream(lengths, texts(), chunk=4)
    assert not read
    assert [next(answers)[1] for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(read) == 8


def test_a_mistake_says_where_it_is_after_the_answers_before_it() -> None:
    answers = stream(lengths, ["a", "b", "c", "d", "", "f"], chunk=3)
    assert [answer for _, answer in itertools.islice(answers, 4)] == [1, 1, 1, 1]
    with pytest.raises(UserError, match=r"^after 4 texts, counted from 0 again: texts\[0\] is empty"):
        next(answers)
    with pytest.raises(UserError, match=r"^texts\[0\] is empty"):
        list(stream(lengths, ["", "a"]))


def test_too_few_answers_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="shorter"):
        list(stream(lambda texts: texts[1:], ["a", "b"]))


def test_progress_is_said_while_it_runs_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list(stream(lengths, ["a"] * 3, chunk=2))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(streaming, "REPORT_EVERY", 0.0)
    list(stream(lengths, ["a"] * 3, chunk=2, progress=True))
    assert [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()] == ["2 texts", "3 texts", "3 texts"]


def test_mistakes_in_the_call_are_found_before_the_first_text() -> None:
    with pytest.raises(UserError, match="chunk=0 is not positive"):
        stream(lengths, ["a"], chunk=0)
    with pytest.raises(UserError, match="a single string"):
        stream(lengths, "rain")

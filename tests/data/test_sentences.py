# ruff: noqa: RUF001 - the look-alikes are what is tested
import random

import pytest

from bertjax.data import sentences as sentences_module
from bertjax.data.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "We stayed in!", "Did you?"],
        ['She said "go." ', "“Why?”", "(He left.)", "'Fine.'"],
        ["Mr. Brown met Dr. Gray and Prof. J. R. White."],
        ["The U.S. Navy came, e.g. Tuesday, i.e. late.", "It left."],
        ["See Fig. 3, No. 5 and vol. II.", "No.", "It is art.", "So am I.", "Then go."],
        ["It cost 3.50 or .5 of it at example.com.", "Cheap."],
        ["On Jan. 5 it began.", "It ended in Sept.", "Then came rain."],
        ["Well... perhaps, he said.", "Wait...", "What?!", "Yes… no."],
        ['"Stop!" he cried, etc. and so on.', "He did."],
        ["1. Take the egg.", "2. Boil it."],
        ["Wir kamen z.B. um 8 Uhr an.", "Über Nacht blieb es kalt.", "Étrange."],
        ["今天下雨。", "我们在家！", "你呢？", "他说：「好。」", "“行。”", "完"],
        ["「行く。」と彼は言った。", "終わり。"],
        ["यह एक वाक्य है।", "यह दूसरा है॥"],
        ["هل أنت هنا؟", "نعم."],
        ["no end"],
        [],
    ],
)
def test_sentences_are_found(sentences: list[str]) -> None:
    space = "" if sentences and sentences[0][0] in "今「" else "  "
    assert list(split_sentences(space.join(sentences).encode())) == [sentence.strip() for sentence in sentences]


def test_nothing_but_white_space_is_lost() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("aB7 .!?…\"'”)(。！」、と।\u3000\n\t", k=draw.randrange(40)))
        sentences = list(split_sentences(text.encode()))
        assert "".join("".join(sentences).split()) == "".join(text.split())
        assert all(sentence and sentence == sentence.strip() for sentence in sentences)


def test_sentences_do_not_depend_on_the_pieces_that_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    for _ in range(2000):
        parts = draw.choices(
            ["Mr", "a", "so on", "7", "U.S", "é", "😀", ".", "...", "?", "。", "」", "”", " ", " ", "\n"], k=40
        )
        encoded = "".join(parts).encode()
        whole = list(split_sentences(encoded))
        with monkeypatch.context() as patch:
            patch.setattr(sentences_module, "PIECE", draw.randrange(20))
            assert list(split_sentences(encoded)) == whole


def test_time_grows_with_the_length_only() -> None:
    # A search back to the last space, or a repeated mark that is scanned again, would take minutes here.
    assert len(list(split_sentences(b"x." * 500_000))) == 1
    assert len(list(split_sentences(b"." * 500_000))) == 1
    assert len(list(split_sentences(b"x. Y" * 200_000))) == 200_001

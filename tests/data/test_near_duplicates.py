from __future__ import annotations

import random

from bertjax.data.near_duplicates import groups

WORDS = ["ship", "sea", "gull", "wind", "wave", "sail", "rope", "mast", "port", "crew", "storm", "calm", "tide"]


def text(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(50)}" for _ in range(words))


def test_texts_of_their_own_stay_alone() -> None:
    texts = [text(seed) for seed in range(200)]
    assert groups(texts) == list(range(200))


def test_a_few_changed_words_do_not_part_texts() -> None:
    original = text(0)
    words = original.split()
    changed = " ".join([*words[:30], "another", *words[31:]])
    assert groups([text(1), original, text(2), changed.upper() + "!"]) == [0, 1, 2, 1]


def test_a_chain_is_one_group() -> None:
    words = text(3, words=140).split()
    chain = [" ".join(words[start : start + 100]) for start in (0, 10, 20, 30, 40)]
    assert set(groups(chain)) == {0}
    assert groups([chain[0], text(4)]) == [0, 1]


def test_a_group_goes_by_its_first_text() -> None:
    for seed in range(20):
        words = text(seed, words=160).split()
        bridged = [" ".join(words[start : start + 100]) for start in (0, 60, 30)]  # the last joins the others
        assert all(group <= i for i, group in enumerate(groups(bridged)))


def test_no_shingle_crosses_from_one_text_into_the_next() -> None:
    texts = ["a b c", "d e f", "a b c", "", "g", "g"]
    assert groups(texts) == [0, 1, 0, 3, 4, 4]
    assert groups([]) == []


def test_the_order_of_the_others_does_not_matter() -> None:
    texts = [text(seed) for seed in range(20)] * 2
    partners = [{i for i, g in enumerate(groups(texts)) if g == first} for first in groups(texts)]
    assert partners == [{i % 20, i % 20 + 20} for i in range(40)]

"""Tokens are numbered so that each tells its document (ten thousands) and its place there (from 10)."""

import itertools

import numpy as np
import pytest

from bertjax.data.pairs import IS_NEXT, IS_RANDOM, Pair, _truncate, pairs_from_documents

CLS, SEP = 2, 3


def make_documents(lengths: list[list[int]]) -> list[list[np.ndarray]]:
    documents = []
    for number, sentence_lengths in enumerate(lengths, 1):
        ids = np.arange(sum(sentence_lengths), dtype=np.int32) + number * 10_000 + 10
        documents.append(np.split(ids, np.cumsum(sentence_lengths)[:-1]))
    return documents


def random_documents(count: int, seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return make_documents([rng.integers(1, 30, rng.integers(1, 40)).tolist() for _ in range(count)])


def draw(
    documents: list[list[np.ndarray]],
    seq_len: int = 64,
    *,
    seed: int = 0,
    next_sentence: bool = True,
    short_share: float = 0.1,
) -> list[Pair]:
    rng = np.random.default_rng(seed)
    options = {"seq_len": seq_len, "next_sentence": next_sentence, "short_share": short_share}
    return list(pairs_from_documents(documents, rng, cls_id=CLS, sep_id=SEP, **options))  # type: ignore[arg-type]


def segments(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Returns both segments, after checking what stands around them."""
    first, second = np.split(pair.ids, [pair.first_length])
    assert len(second) == pair.second_length
    assert (first[0], first[-1], second[-1]) == (CLS, SEP, SEP)
    return first[1:-1], second[:-1]


def test_segments_are_runs_of_one_document_and_the_label_says_which() -> None:
    for pair in draw(random_documents(60)):
        first, second = segments(pair)
        assert len(first) > 0
        assert len(second) > 0
        assert len(pair.ids) <= 64
        assert pair.ids.dtype == np.int32
        assert (np.diff(first) == 1).all()
        assert (np.diff(second) == 1).all()
        same_document = first[0] // 10_000 == second[0] // 10_000
        assert pair.label == (IS_NEXT if same_document else IS_RANDOM)
        if same_document:
            gap = second[0] - first[-1] - 1
            assert gap == 0 or (gap > 0 and len(pair.ids) == 64)  # what truncation took from between them


def test_with_two_documents_a_random_segment_is_always_from_the_other() -> None:
    pairs = draw(make_documents([[5] * 200, [5] * 200]))
    assert {pair.label for pair in pairs} == {IS_NEXT, IS_RANDOM}
    for pair in pairs:
        first, second = segments(pair)
        assert (first[0] // 10_000 != second[0] // 10_000) == (pair.label == IS_RANDOM)


def test_half_of_the_chunks_of_several_sentences_are_random_and_all_of_one_sentence() -> None:
    pairs = draw(random_documents(600))
    several = [pair for pair in pairs if not pair.one_sentence]
    random = sum(pair.label == IS_RANDOM for pair in several)
    assert len(several) > 3000
    assert abs(random - len(several) / 2) < 4 * np.sqrt(len(several) / 4)
    single = [pair for pair in pairs if pair.one_sentence]
    assert single
    assert all(pair.label == IS_RANDOM for pair in single)


def test_documents_of_one_sentence_give_random_pairs_only() -> None:
    pairs = draw(make_documents([[7]] * 50))
    assert len(pairs) == 50
    assert all(pair.label == IS_RANDOM and pair.one_sentence for pair in pairs)


def test_sentences_that_a_random_segment_replaced_are_used_again() -> None:
    # Sentences of one token fill every chunk exactly, so nothing is truncated and every token is used exactly once.
    documents = make_documents([[1] * 500, [1] * 300])
    used = []
    for pair in draw(documents):
        first, second = segments(pair)
        used += [*first, *second] if pair.label == IS_NEXT else [*first]
    assert used == [token for document in documents for sentence in document for token in sentence]


def longest_inputs(short_share: float) -> np.ndarray:
    """Returns for each of 1000 documents of one-token sentences the tokens of its longest pair: what it aimed at."""
    pairs = draw(make_documents([[1] * 100] * 1000), 32, short_share=short_share)
    by_document = itertools.groupby(pairs, lambda pair: pair.ids[1] // 10_000)
    return np.array([max(len(pair.ids) - 3 for pair in group) for _, group in by_document])


def test_a_share_of_the_documents_aims_at_a_shorter_length_and_the_others_at_a_full_row() -> None:
    assert (longest_inputs(0) == 29).all()
    shorter = int((longest_inputs(0.1) < 29).sum())
    assert abs(shorter - 1000 * 0.1 * 27 / 28) < 4 * np.sqrt(1000 * 0.1 * 0.9)
    counts = np.bincount(longest_inputs(1))
    assert counts[:2].sum() == 0
    assert len(counts) == 30
    assert np.abs(counts[2:] - 1000 / 28).max() < 4 * np.sqrt(1000 / 28)  # 2 to 29, evenly


def plainly_truncated(first: list[int], second: list[int], most: int, rng: np.random.Generator) -> list[list[int]]:
    """A token at a time, as the rule is stated."""
    while len(first) + len(second) > most:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if rng.random() < 0.5 else -1)
    return [first, second]


def test_truncation_leaves_what_it_leaves_a_token_at_a_time() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        sizes, most = rng.integers(1, 60, 2), int(rng.integers(2, 50))
        first, second = (np.arange(size) for size in sizes)
        cut = _truncate(first, second, most, rng)
        plain = plainly_truncated(first.tolist(), second.tolist(), most, rng)
        assert [len(segment) for segment in cut] == [len(segment) for segment in plain]
        assert all((np.diff(segment) == 1).all() for segment in cut)


def test_truncation_takes_from_the_front_as_often_as_from_the_back() -> None:
    rng = np.random.default_rng(0)
    fronts = np.array([_truncate(np.arange(60), np.arange(10), 30, rng)[0][0] for _ in range(2000)])
    assert abs(fronts.mean() - 20) < 4 * np.sqrt(10 / 2000)  # 40 tosses a segment: mean 20, variance 10
    assert abs(fronts.var() - 10) < 1.5


def test_without_next_sentence_nothing_is_lost_and_sentences_stay_whole() -> None:
    documents = random_documents(40)
    ends = {sentence[-1] for document in documents for sentence in document}
    texts = []
    for pair in draw(documents, 64, next_sentence=False):
        assert (pair.ids[0], pair.ids[-1]) == (CLS, SEP)
        assert (pair.first_length, pair.second_length, pair.label) == (len(pair.ids), 0, IS_NEXT)
        assert len(pair.ids) <= 64
        assert pair.ids[-2] in ends
        texts.append(pair.ids[1:-1])
    assert np.array_equal(np.concatenate(texts), np.concatenate([s for document in documents for s in document]))
    for text, following in itertools.pairwise(texts):  # the next sentence would not have fitted, or starts a document
        sentence_end = min(end for end in ends if end >= following[0])
        assert following[0] % 10_000 == 10 or len(text) + sentence_end - following[0] + 1 > 62


def test_an_overlong_sentence_is_cut_into_pieces_without_next_sentence() -> None:
    (document,) = make_documents([[4, 150, 4]])
    pairs = draw([document], 64, next_sentence=False)
    assert [len(pair.ids) - 2 for pair in pairs] == [4, 62, 62, 30]
    assert np.array_equal(np.concatenate([pair.ids[1:-1] for pair in pairs]), np.concatenate(document))


def test_the_generator_decides_alone() -> None:
    documents = random_documents(10)
    runs = [np.concatenate([pair.ids for pair in draw(documents, seed=seed)]).tolist() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_random_segment_needs_another_document() -> None:
    with pytest.raises(ValueError, match="1 documents have no other document"):
        draw(make_documents([[3, 4]]))

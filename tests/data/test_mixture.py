"""Mixtures of corpora: shares of the rows, order, numbers of pairs, held-out rows, what does not go together."""

from __future__ import annotations

import collections
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data.batches import training_batches
from bertjax.data.corpus import open_corpus
from bertjax.data.mixture import CYCLE, open_mixture
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError

NOUNS = {"animals": "hens owls cats mice bees", "plants": "oaks rye moss ferns reeds", "stones": "flint chalk slate"}


def write(path: Path, nouns: str, documents: int) -> Path:
    draw = random.Random(nouns)
    texts = [
        " ".join(f"{draw.choice(nouns.split())} {draw.choice(('grow', 'rest', 'fall'))}." for _ in range(6))
        for _ in range(documents)
    ]
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Three corpora of one vocabulary and different sizes."""
    top = tmp_path_factory.mktemp("mixture")
    texts = [write(top / f"{name}.txt", nouns, 40 + 20 * i) for i, (name, nouns) in enumerate(NOUNS.items())]
    everything = top / "all.txt"
    everything.write_text("\n\n".join(path.read_text() for path in texts))
    prepare(PrepareConfig(str(top / "all"), vocab_size=120, seq_len=16, validation_share=0.2), [everything])
    vocab = str(top / "all" / "tokenizer" / "vocab.txt")
    for i, text in enumerate(texts):
        settings: dict[str, Any] = {"vocab": vocab, "seq_len": 16, "validation_share": 0.2, "pairs_per_row": 1 + i}
        made = PrepareConfig(str(text.with_suffix("")), **settings)
        prepare(made, [text])
    return tuple(str(text.with_suffix("")) for text in texts)


def make_config(path: tuple[str, ...], *weights: float, **changes: Any) -> DataConfig:
    return DataConfig(path=path, weights=weights, seq_len=16, **changes)


def test_any_run_of_rows_has_the_shares(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths, 5, 3, 2))
    place = mixture.training_order(seed=0)
    for start, rows in ((0, 10), (0, CYCLE), (777, 100), (10**12 + 3, 50), (CYCLE - 20, 40)):
        counts = collections.Counter(place(n).corpus for n in range(start, start + rows))
        for corpus, share in enumerate((0.5, 0.3, 0.2)):
            assert abs(counts[corpus] - share * rows) < 2
    assert collections.Counter(place(n).corpus for n in range(CYCLE)) == {0: 500, 1: 300, 2: 200}


def test_a_corpus_is_read_whole_in_an_order_of_its_own_before_it_is_read_again(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths, 1, 2, 3))
    place = mixture.training_order(seed=7)
    for c, corpus in enumerate(mixture.corpora):
        size = len(corpus.train)
        read = [p for p in map(place, range(40 * size)) if p.corpus == c][: 2 * size]
        first, second = read[:size], read[size:]
        assert {p.epoch for p in first} == {0}
        assert {p.epoch for p in second} == {1}
        assert sorted(p.row for p in first) == sorted(p.row for p in second) == list(range(size))
        assert [p.row for p in first] != [p.row for p in second]


def test_neither_the_next_epoch_nor_the_next_seed_repeats_an_order(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths[:1]))
    size = len(mixture.corpora[0].train)
    orders = [
        tuple(mixture.training_order(seed)(epoch * size + n).row for n in range(size))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9


def test_one_corpus_is_the_mixture_of_one(paths: tuple[str, ...]) -> None:
    alone, listed = (open_mixture(DataConfig(path=path, seq_len=16)) for path in (paths[1], (paths[1],)))
    assert alone.fingerprint == listed.fingerprint == open_corpus(paths[1]).fingerprint
    np.testing.assert_array_equal(alone.token_counts, open_corpus(paths[1]).token_counts)
    assert len(alone.held_out(10_000)) == alone.rows("validation")
    assert len(alone.held_out(3)) == 3


def test_without_weights_each_gives_what_it_has(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths))
    sizes = np.array([len(corpus.train) for corpus in mixture.corpora])
    np.testing.assert_allclose(np.array(mixture.rows_C) / CYCLE, sizes / sizes.sum(), atol=1 / CYCLE)
    assert sum(mixture.rows_C) == CYCLE


def test_pairs_are_numbered_through_all_corpora_so_that_no_two_have_the_same_masks(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths, 1, 1, 1))
    place = mixture.training_order(seed=0)
    of_rows: dict[tuple[int, int], tuple[int, ...]] = {}
    for n in range(50 * mixture.rows("train")):
        p = place(n)
        if p.epoch == 0:
            of_rows[p[:2]] = tuple(mixture.read("train", p)["pairs"].tolist())
    pairs = [pair for row in of_rows.values() for pair in row]
    assert len(of_rows) == mixture.rows("train")
    assert sorted(pairs) == list(range(len(pairs)))


def test_held_out_rows_and_counts_have_the_shares_of_training(paths: tuple[str, ...]) -> None:
    mixture = open_mixture(make_config(paths, 5, 4, 1))
    held_out = mixture.held_out(10)
    assert collections.Counter(p.corpus for p in held_out) == {0: 5, 1: 4, 2: 1}
    assert held_out == mixture.held_out(10)
    assert len(set(mixture.held_out(10_000))) == mixture.rows("validation")
    total = sum(
        n / CYCLE * corpus.token_counts / len(corpus.train)
        for n, corpus in zip(mixture.rows_C, mixture.corpora, strict=True)
    )
    np.testing.assert_allclose(mixture.token_counts, total * mixture.rows("train"))


def test_a_batch_has_rows_of_all_and_room_for_the_most_pairs(paths: tuple[str, ...]) -> None:
    c = make_config(paths, 1, 1, 2)
    mixture = open_mixture(c)
    batch_of = training_batches(mixture, c, rows=range(8), batch_size=8, seed=3)
    batch, place = batch_of(5), mixture.training_order(seed=3)
    assert batch["cls"].shape == (8, 3)
    for b, n in enumerate(range(40, 48)):
        row = mixture.read("train", place(n))
        ids = batch["ids"][b].copy()
        ids[batch["predict"][b][batch["weights"][b] > 0]] = batch["labels"][b][batch["weights"][b] > 0]
        np.testing.assert_array_equal(ids[: len(row["ids"])], row["ids"])


def test_the_fingerprint_tells_shares_and_corpora(paths: tuple[str, ...]) -> None:
    def fingerprint(path: tuple[str, ...], *weights: float) -> str:
        return open_mixture(make_config(path, *weights)).fingerprint

    assert fingerprint(paths, 1, 1, 2) == fingerprint(paths, 2, 2, 4)
    assert len({fingerprint(paths, 1, 1, 2), fingerprint(paths, 1, 2, 1), fingerprint(paths[::-1], 1, 1, 2)}) == 3


def test_corpora_that_do_not_go_together_are_named(paths: tuple[str, ...], tmp_path: Path) -> None:
    text = write(tmp_path / "a.txt", NOUNS["plants"], 30)
    prepare(PrepareConfig(str(tmp_path / "other"), vocab_size=64, seq_len=16, validation_share=0.2), [text])
    with pytest.raises(UserError, match=r"animals and \S+other have different vocabularies; .* --vocab \S+animals/tok"):
        open_mixture(make_config((paths[0], str(tmp_path / "other"))))
    vocab = f"{paths[0]}/tokenizer/vocab.txt"
    without = PrepareConfig(
        str(tmp_path / "without"), vocab=vocab, seq_len=16, validation_share=0.2, next_sentence=False
    )
    prepare(without, [text])
    for pair in ((paths[0], without.output), (without.output, paths[0])):
        with pytest.raises(UserError, match=r"only \S+without has no next-sentence pairs"):
            open_mixture(make_config(pair))
    with pytest.raises(UserError, match=r"plants was prepared with seq_len=16, more than data.seq_len=8"):
        open_mixture(DataConfig(path=paths[1], seq_len=8))
    with pytest.raises(UserError, match=r"plants has the weight 0.0001 of 1.0001, less than a thousandth"):
        open_mixture(make_config(paths[:2], 1, 1e-4))


@pytest.mark.parametrize(
    ("path", "weights", "message"),
    [
        (("a", "b"), (1.0,), "weights=.* are 1, but path names 2"),
        (("a", "b"), (1.0, -1.0), r"weights\[1\]=-1.0 is not greater than 0"),
        ((), (), "names no corpus"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    path: tuple[str, ...], weights: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(path=path, weights=weights)

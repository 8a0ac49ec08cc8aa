"""Several corpora read as one, each with its share of the rows; one corpus is a mixture of one.

Which row of which corpus is read when is arithmetic on the number of the row, so a run that is resumed asks for the
rows that come next, and nothing has to be saved.
Shape letters: C corpora, R rows of a cycle, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable
from typing import NamedTuple

import grain
import numpy as np

from bertjax.config import DataConfig
from bertjax.data import installed_docs
from bertjax.data.blocks import SPLITS, Split
from bertjax.data.corpus import Corpus, Record, open_corpus
from bertjax.data.local_copy import local_copy
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError

CYCLE = 1000  # rows after which the shares are exact; a share is a multiple of a thousandth


class Place(NamedTuple):
    """Where a row stands, and the how many-th time, from 0, it is read."""

    corpus: int
    row: int
    epoch: int = 0


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Corpora of one tokenizer, all with next-sentence pairs or all without. `rows_C` adds up to CYCLE."""

    corpora: tuple[Corpus, ...]
    rows_C: tuple[int, ...] = (CYCLE,)

    @property
    def tokenizer(self) -> Tokenizer:
        """The one of all corpora."""
        return self.corpora[0].tokenizer

    @property
    def next_sentence(self) -> bool:
        """Whether the rows are pairs with a next-sentence label."""
        return self.corpora[0].next_sentence

    @property
    def pairs_per_row(self) -> int:
        """P: the most pairs that a row holds."""
        return max(corpus.pairs_per_row for corpus in self.corpora)

    @property
    def names(self) -> str:
        """The directories, for messages."""
        return ", ".join(str(corpus.directory) for corpus in self.corpora)

    @property
    def fingerprint(self) -> str:
        """A hash: equal ones mean the same rows in the same shares."""
        if len(self.corpora) == 1:
            return self.corpora[0].fingerprint
        text = json.dumps([(corpus.fingerprint, n) for corpus, n in zip(self.corpora, self.rows_C, strict=True)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def token_counts(self) -> np.ndarray:
        """float64 [V], how often each id occurs in as many training rows as there are, mixed; 0 for special tokens."""
        rows = [len(corpus.train) for corpus in self.corpora]
        of_each = [n / CYCLE * sum(rows) / own for n, own in zip(self.rows_C, rows, strict=True)]
        return np.sum([k * corpus.token_counts for k, corpus in zip(of_each, self.corpora, strict=True)], axis=0)

    def rows(self, split: Split) -> int:
        """Returns the number of rows of all corpora."""
        return sum(len(corpus.records(split)) for corpus in self.corpora)

    def read(self, split: Split, place: Place) -> Record:
        """Returns a row, its pairs numbered through all corpora. Raises: UserError if it is damaged."""
        record = self.corpora[place.corpus].records(split)[place.row]
        record["pairs"] += self._pairs_before[split][place.corpus]
        return record

    @functools.cached_property
    def _pairs_before(self) -> dict[Split, list[int]]:
        of_each = {split: [corpus.manifest["splits"][split]["pairs"] for corpus in self.corpora] for split in SPLITS}
        return {split: list(itertools.accumulate(pairs, initial=0)) for split, pairs in of_each.items()}

    def training_order(self, seed: int) -> Callable[[int], Place]:
        """Returns place(n) of the n-th row that is read, from 0.

        Each corpus is read in a permutation of its rows, another one every time it is through.
        """
        sizes = [len(corpus.train) for corpus in self.corpora]
        corpus_R, before_R = _cycle(self.rows_C)

        def place(n: int) -> Place:
            cycle, r = divmod(n, CYCLE)
            c = corpus_R[r]
            epoch, row = divmod(cycle * self.rows_C[c] + before_R[r], sizes[c])
            return Place(c, _shuffled(row, sizes[c], seed, epoch), epoch)

        return place

    def held_out(self, limit: int) -> list[Place]:
        """Returns the places of at most `limit` held-out rows, always the same, in the shares of training.

        A corpus that has fewer gives all that it has, and each gives one.
        """
        places = []
        for c, (corpus, n) in enumerate(zip(self.corpora, self.rows_C, strict=True)):
            order = np.random.default_rng(0).permutation(len(corpus.validation))[: max(1, limit * n // CYCLE)]
            places += [Place(c, int(row)) for row in order]
        return places


def open_mixture(c: DataConfig) -> Mixture:
    """Returns the corpora of `data.path` in the shares of `data.weights`.

    Raises: UserError if one cannot be read, or they do not go together.
    """
    corpora = tuple(_open(path, c) for path in c.paths)
    for corpus in corpora[1:]:
        check_together(corpora[0], corpus)
    return Mixture(corpora, _rows_of(c, corpora))


def check_together(first: Corpus, corpus: Corpus) -> None:
    """Raises UserError unless one model can be trained on both."""
    if corpus.tokenizer.fingerprint != first.tokenizer.fingerprint:
        raise UserError(
            f"{first.directory} and {corpus.directory} have different vocabularies; prepare one with the other's:"
            f" --vocab {first.directory}/tokenizer/vocab.txt"
        )
    if corpus.next_sentence != first.next_sentence:
        without = first if corpus.next_sentence else corpus
        raise UserError(
            f"of {first.directory} and {corpus.directory} only {without.directory} has no next-sentence pairs;"
            " prepare it with them, or the other with --no-nsp"
        )


def _open(path: str, c: DataConfig) -> Corpus:
    if path == installed_docs.NAME:
        corpus = open_corpus(installed_docs.prepared(c.seq_len))
    else:
        corpus = open_corpus(path if c.cache is None else local_copy(path, c.cache))
    prepared = corpus.manifest["settings"]["seq_len"]
    if prepared > c.seq_len:
        raise UserError(
            f"{path} was prepared with seq_len={prepared}, more than data.seq_len={c.seq_len};"
            f" use --data.seq_len={prepared} or prepare it again with --seq-len {c.seq_len}"
        )
    return corpus


def _rows_of(c: DataConfig, corpora: tuple[Corpus, ...]) -> tuple[int, ...]:
    """Returns how many rows of a cycle each corpus gives, by the largest remainders."""
    weights = c.weights or tuple(float(len(corpus.train)) for corpus in corpora)
    exact_C = np.array(weights) / sum(weights) * CYCLE
    rows_C = np.floor(exact_C).astype(int)
    rows_C[np.argsort(rows_C - exact_C, kind="stable")[: CYCLE - rows_C.sum()]] += 1
    for corpus, rows, weight in zip(corpora, rows_C, weights, strict=True):
        if not rows:
            raise UserError(f"{corpus.directory} has the weight {weight:g} of {sum(weights):g}, less than a thousandth")
    return tuple(int(rows) for rows in rows_C)


def _shuffled(index: int, size: int, seed: int, epoch: int) -> int:
    """Returns where a permutation of `size` rows has `index`, without making the permutation."""
    return grain.experimental.index_shuffle(index, max_index=size - 1, seed=_seed_of(seed, epoch), rounds=4)


@functools.lru_cache(maxsize=8)
def _seed_of(seed: int, epoch: int) -> int:
    """Returns 32 bits that neither the next epoch nor the next seed shares."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


@functools.cache
def _cycle(rows_C: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Returns of each row of a cycle the corpus, and how many of that corpus come before it in the cycle.

    The next row is always of the corpus that is furthest behind its share, so that any run of rows has about the
    shares of the whole.
    """
    share_C, given_C = np.array(rows_C) / CYCLE, np.zeros(len(rows_C), int)
    corpus_R, before_R = [], []
    for r in range(CYCLE):
        c = int(np.argmax(share_C * (r + 1) - given_C))
        corpus_R.append(c)
        before_R.append(int(given_C[c]))
        given_C[c] += 1
    return corpus_R, before_R

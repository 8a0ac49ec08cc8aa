"""What a prepared corpus holds, in lines to read, and what in it will hurt a pretraining."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertjax.data import near_duplicates
from bertjax.data.corpus import Corpus, Record, check_shards, open_corpus
from bertjax.data.pairs import IS_RANDOM

ROWS = 10_000  # training rows that are looked at; counts, shares and top tokens are of all rows
BARS, BAR_WIDTH = 8, 40
TOKENS_IN_A_LINE = 5
TOP_TOKENS, SAMPLES, SOURCES = 40, 3, 10  # that are shown
SAMPLE_WIDTH, SAMPLE_LINES = 110, 4

FEW_DOCUMENTS = 100
UNKNOWN_SHARE = 0.05
ONE_SENTENCE_SHARE = 0.3
GARBLED_SHARE = 0.001
REPEATED_SHARE = 0.02
REPEATED_WORDS = 20  # shorter texts may well be equal by chance
# UTF-8 read as Windows-1252: "Ã©" for "é", "â€™" for an apostrophe, "Ð°" in Cyrillic; and what is left of them after
# lower-casing, accents stripped and punctuation parted. Not what stands behind a letter in mathematics, as in "a²".
_GARBLED = re.compile("[ÃãÐðÑ][\u00a1-\u00bf]|[âa]€|a[¤¥¦¨©ª¬¯\u00b4\u00b8¼¾]")


class _Text(NamedTuple):
    """A pair, decoded."""

    first: str
    second: str
    label: int
    length: int
    pair: int
    """Its index in the split."""

    @property
    def own(self) -> str:
        """What comes from the pair's own document, and in one pass over the documents is in no other pair."""
        return self.first if self.label == IS_RANDOM else f"{self.first} {self.second}"


def inspection(directory: str | Path) -> Iterator[str]:
    """Yields lines on the corpus: its making, its counts, lengths, frequent tokens, samples, warnings.

    All shards are read once to verify their checksums, and at most `ROWS` training rows are decoded, so that the memory
    does not depend on the size of the corpus.

    Raises: UserError, with the shard, if anything is missing or damaged.
    """
    corpus = open_corpus(directory)
    check_shards(corpus.directory)
    rows = _sample(corpus)
    texts = [text for row in rows for text in _texts(row, corpus)]
    yield from _heading(corpus)
    yield from _counts(corpus)
    yield from _lengths(corpus, rows, texts)
    yield from _top_tokens(corpus)
    yield from _samples(corpus, texts)
    yield from _warnings(corpus, texts)


def _sample(corpus: Corpus) -> list[Record]:
    total = len(corpus.train)
    indices = np.sort(np.random.default_rng(0).choice(total, min(ROWS, total), replace=False))
    return [corpus.train[index] for index in indices]


def _texts(row: Record, corpus: Corpus) -> Iterator[_Text]:
    start = 0
    for (first, second), label, index in zip(row["lengths"].tolist(), row["labels"], row["pairs"], strict=True):
        middle, end = start + first, start + first + second
        ids = row["ids"][start + 1 : middle - 1], row["ids"][middle : end - 1]  # without [CLS] and [SEP]
        first_text, second_text = (corpus.tokenizer.decode(part.tolist()) for part in ids)
        yield _Text(first_text, second_text, int(label), end - start, int(index))
        start = end


def _heading(corpus: Corpus) -> Iterator[str]:
    manifest = corpus.manifest
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    size = sum(shard["bytes"] for shard in shards) / 1e6
    vocabulary = manifest["vocabulary"]
    yield str(corpus.directory)
    yield f"  checksums   {_number(len(shards), 'shard')}, {size:.1f} MB: all are as they were written"
    yield f"  vocabulary  {vocabulary['entries']} entries, {'cased' if vocabulary['cased'] else 'lower case'}"
    settings = ", ".join(f"{name}={value}" for name, value in manifest["settings"].items())
    yield textwrap.fill(f"  settings    {settings}", SAMPLE_WIDTH, subsequent_indent=" " * 14)
    sources = manifest["sources"]
    for source in sources[:SOURCES]:
        yield f"  source      {source['name']}, {source['bytes'] / 1e6:.1f} MB, blake2b {source['blake2b']}"
    if len(sources) > SOURCES:
        yield f"  source      ... and {len(sources) - SOURCES} more"


def _counts(corpus: Corpus) -> Iterator[str]:
    splits = corpus.manifest["splits"]
    yield ""
    yield f"{'':28}" + "".join(f"{name:>16}" for name in splits)
    known = splits["train"].keys()  # TFRecord files of pairs tell neither documents nor sentences
    for title, name in COUNTS.items():
        if name in known:
            yield f"  {title:26}" + "".join(f"{split[name]:16,}" for split in splits.values())
    shares = dict(SHARES.items() if corpus.next_sentence else itertools.islice(SHARES.items(), 2))
    if "documents" not in known:
        shares = {title: name for title, name in shares.items() if name != "one_sentence_share"}
    for title, name in shares.items():
        yield f"  {title:26}" + "".join(f"{split[name]:16.2%}" for split in splits.values())
    skipped = corpus.manifest["skipped_lines"]
    if skipped:
        yield f"  lines left out            {skipped:16,}"


def _lengths(corpus: Corpus, rows: list[Record], texts: list[_Text]) -> Iterator[str]:
    seq_len = corpus.manifest["settings"]["seq_len"]
    yield ""
    yield f"from {len(rows):,} of {len(corpus.train):,} training rows, drawn at random"
    yield from _histogram("tokens of a pair", [text.length for text in texts], seq_len)
    if corpus.pairs_per_row > 1:
        yield from _histogram("tokens of a row", [len(row["ids"]) for row in rows], seq_len)
        yield from _histogram("pairs in a row", [len(row["pairs"]) for row in rows], corpus.pairs_per_row)


def _histogram(title: str, values: Sequence[int], most: int) -> Iterator[str]:
    """Yields a line with a bar for each of `BARS` equal parts of 1 to `most`."""
    edges = np.unique(np.linspace(0, most, BARS + 1).round().astype(int))
    counts, _ = np.histogram(values, bins=edges + 0.5)
    yield f"  {title}, {np.mean(values):.1f} in the mean"
    for low, high, count in zip(edges[:-1] + 1, edges[1:], counts, strict=True):
        span = str(high) if low == high else f"{low}-{high}"
        bar = "#" * round(BAR_WIDTH * count / counts.max())
        yield f"    {span:>11}  {count / len(values):6.1%}  {bar}".rstrip()


def _top_tokens(corpus: Corpus) -> Iterator[str]:
    counts = corpus.token_counts
    top = [token_id for token_id in np.argsort(-counts, kind="stable")[:TOP_TOKENS].tolist() if counts[token_id]]
    cells = [f"{corpus.tokenizer.piece(token_id):>12} {counts[token_id] / counts.sum():5.1%}" for token_id in top]
    yield ""
    yield f"most frequent tokens of all training rows, of {np.count_nonzero(counts):,} that occur"
    for start in range(0, len(cells), TOKENS_IN_A_LINE):
        yield "  " + "".join(cells[start : start + TOKENS_IN_A_LINE])


def _samples(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:
    yield ""
    yield "samples"
    for text in texts[:: max(1, len(texts) // SAMPLES)][:SAMPLES]:
        if not corpus.next_sentence:
            yield from _wrapped("  text: ", text.first)
            continue
        yield f"  pair {text.pair}, B {'is from another document' if text.label == IS_RANDOM else 'is next'}"
        yield from _wrapped("    A: ", text.first)
        yield from _wrapped("    B: ", text.second)


def _wrapped(name: str, text: str) -> Iterator[str]:
    yield from textwrap.wrap(
        name + text,
        SAMPLE_WIDTH,
        subsequent_indent=" " * len(name),
        max_lines=SAMPLE_LINES,
        placeholder=" ...",
    )


def _warnings(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:
    yield ""
    found = [warning for check in CHECKS for warning in check(corpus, texts)]
    yield from (f"WARNING: {warning}" for warning in found)
    if not found:
        yield "nothing was found that will hurt"


def _few_documents(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:  # noqa: ARG001 - the manifest says it
    documents = sum(split.get("documents", FEW_DOCUMENTS) for split in corpus.manifest["splits"].values())
    if documents < FEW_DOCUMENTS:
        yield (
            f"only {documents} documents (fewer than {FEW_DOCUMENTS}): random second segments come from few places, and"
            " what is held out says little; part the text into documents (a blank line in .txt, a line in .jsonl)"
        )


def _unknowns(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:  # noqa: ARG001 - the manifest says it
    share = corpus.manifest["splits"]["train"]["unknown_share"]
    if share > UNKNOWN_SHARE:
        yield (
            f"{share:.1%} of the tokens are unknown (more than {UNKNOWN_SHARE:.0%}): the vocabulary does not fit the"
            " text; learn one from it (no --vocab), or give one of its language"
        )


def _one_sentence_chunks(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:  # noqa: ARG001 - the manifest says it
    share = corpus.manifest["splits"]["train"]["one_sentence_share"]
    if corpus.next_sentence and share > ONE_SENTENCE_SHARE:
        yield (
            f"{share:.1%} of the pairs were cut from a chunk of one sentence (more than {ONE_SENTENCE_SHARE:.0%}), and"
            " their second segment is always random: next-sentence labels tell short chunks from long ones; join"
            " documents that belong together, use a longer --seq-len, or --no-nsp"
        )


def _garbled(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:  # noqa: ARG001 - the texts say it
    found = [match.group() for text in texts if (match := _GARBLED.search(text.own))]
    if len(found) > GARBLED_SHARE * len(texts):
        yield (
            f"{len(found) / len(texts):.1%} of the sampled pairs hold letters that look like UTF-8 read as another"
            f" encoding, such as {found[0]!r} (Ã© for é, â€™ for an apostrophe): repair the encoding of the sources"
        )


def _lost_characters(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:  # noqa: ARG001 - the manifest says it
    splits = corpus.manifest["splits"].values()
    lost = sum(split.get("lost_characters", 0) for split in splits)  # not counted by the first writers of version 2
    if lost:
        yield (
            f"{lost} characters of the sources are U+FFFD, which stands for bytes that could not be read, and is left"
            " out: their words are no longer whole; convert the sources from their true encoding"
        )


def _near_duplicates(corpus: Corpus, texts: list[_Text]) -> Iterator[str]:
    own = [text.own for text in texts if _of_first_pass(corpus, text.pair)][:ROWS]
    long = [text for text in own if len(text.split()) >= REPEATED_WORDS]
    repeated = [i for i, first in enumerate(near_duplicates.groups(long)) if first != i]
    if len(repeated) > REPEATED_SHARE * len(long):
        yield (
            f"{len(repeated)} of {len(long)} sampled texts nearly repeat another one of them (of the whole corpus it"
            f" is more), such as {textwrap.shorten(long[repeated[0]], 60, placeholder='...')!r}: they are learned by"
            " heart, and held-out figures flatter; remove repeated documents, headers and licences"
        )


def _of_first_pass(corpus: Corpus, pair: int) -> bool:
    """Returns whether the pair was surely drawn in the first of --passes; later ones repeat the text on purpose."""
    passes = corpus.manifest["settings"]["passes"]
    if passes == 1:
        return True
    for shard in corpus.manifest["splits"]["train"]["shards"]:
        if pair < shard["pairs"]:
            return bool(pair < FIRST_PASS * shard["pairs"] / passes)
        pair -= shard["pairs"]
    raise AssertionError("the pair is in no shard")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


FIRST_PASS = 0.9  # of a pass's mean number of pairs; passes differ by a few per cent
COUNTS = {
    "documents": "documents",
    "sentences": "sentences",
    "tokens": "tokens",
    "pairs": "pairs",
    "rows": "rows",
}
SHARES = {
    "unknown tokens": "unknown_share",
    "padding": "padding_share",
    "chunks of one sentence": "one_sentence_share",
    "random, of the others": "random_share_of_others",
}
CHECKS: tuple[Callable[[Corpus, list[_Text]], Iterator[str]], ...] = (
    _few_documents,
    _unknowns,
    _one_sentence_chunks,
    _garbled,
    _lost_characters,
    _near_duplicates,
)

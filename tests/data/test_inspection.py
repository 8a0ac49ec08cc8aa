from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data import inspection as inspection_module
from bertjax.data.corpus import Corpus, open_corpus
from bertjax.data.inspection import inspection
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError

WORDS = ["".join(syllables) for syllables in itertools.product(["ka", "ro", "mi", "te", "su"], repeat=3)]
FINE = "nothing was found that will hurt"


def documents(count: int = 130, *, sentences: int = 8, seed: int = 0) -> list[str]:
    """Returns made-up documents of which none resembles another."""
    draw = random.Random(seed)
    return [
        " ".join(" ".join(draw.choices(WORDS, k=draw.randint(4, 10))).capitalize() + "." for _ in range(sentences))
        for _ in range(count)
    ]


def of_all_lengths() -> list[str]:
    return [text for sentences in range(1, 10) for text in documents(20, sentences=sentences, seed=sentences)]


def prepared(directory: Path, texts: list[str], **settings: Any) -> Path:
    source = directory / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    defaults = {"output": str(directory / "out"), "vocab_size": 300, "seq_len": 64, "validation_share": 0.1}
    prepare(PrepareConfig(**{**defaults, **settings}), [source])
    return directory / "out"


def warnings(directory: Path) -> list[str]:
    return [line for line in inspection(directory) if line.startswith("WARNING: ")]


def numbers(lines: list[str], title: str) -> list[str]:
    """Returns what stands behind the title in the table of counts."""
    (line,) = (line for line in lines if line.startswith(f"  {title:26}"))
    return line.removeprefix(f"  {title}").split()


def test_making_and_counts_are_those_of_the_manifest(tmp_path: Path) -> None:
    lines = list(inspection(prepared(tmp_path, documents())))
    manifest = open_corpus(tmp_path / "out").manifest
    splits = manifest["splits"].values()
    assert lines[0] == str(tmp_path / "out")
    assert lines[1].strip().endswith("all are as they were written")
    assert any(f"texts.jsonl, 0.1 MB, blake2b {manifest['sources'][0]['blake2b']}" in line for line in lines)
    assert "seq_len=64" in " ".join(lines)
    for name in ("documents", "sentences", "tokens", "pairs", "rows"):
        assert numbers(lines, name) == [f"{split[name]:,}" for split in splits]
    assert numbers(lines, "padding") == [f"{split['padding_share']:.2%}" for split in splits]
    assert numbers(lines, "random, of the others") == [f"{split['random_share_of_others']:.2%}" for split in splits]
    assert lines[-1] == FINE


def bars(lines: list[str], title: str) -> list[tuple[str, float]]:
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(title))
    following = itertools.takewhile(lambda line: line.startswith("    "), lines[start + 1 :])
    return [(line.split()[0], float(line.split()[1].rstrip("%"))) for line in following]


@pytest.mark.parametrize("pairs_per_row", [1, 4])
def test_histograms_are_of_pairs_and_rows(tmp_path: Path, pairs_per_row: int) -> None:
    directory = prepared(tmp_path, of_all_lengths(), pairs_per_row=pairs_per_row)
    lines = list(inspection(directory))
    records = open_corpus(directory).train
    rows = [records[i] for i in range(len(records))]
    lengths = np.concatenate([row["lengths"].sum(axis=1) for row in rows])
    assert bars(lines, "tokens of a pair") == [
        (f"{low + 1}-{low + 8}", round(100 * float(np.mean((lengths > low) & (lengths <= low + 8))), 1))
        for low in range(0, 64, 8)
    ]
    assert any(f"tokens of a pair, {lengths.mean():.1f} in the mean" in line for line in lines)
    packed = [f"{k}" for k in range(1, 5)]
    if pairs_per_row == 1:
        assert not any("of a row" in line for line in lines)
    else:
        assert [span for span, _ in bars(lines, "pairs in a row")] == packed
        assert sum(share for _, share in bars(lines, "tokens of a row")) == pytest.approx(100, abs=0.5)


def samples(lines: list[str]) -> Iterator[tuple[int, str, str, str]]:
    """Yields pair, what is said of B, and the start of A and of B."""
    for i, line in enumerate(lines):
        if line.startswith("  pair "):
            pair, said = line.removeprefix("  pair ").split(", B ")
            texts = " ".join(itertools.takewhile(lambda line: line.startswith("    "), lines[i + 1 :])).split()
            text = " ".join(texts).removeprefix("A: ")
            yield int(pair), said, *text.split(" B: ")  # type: ignore[misc]


@pytest.mark.parametrize("pairs_per_row", [1, 4])
def test_samples_are_the_segments_with_their_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs_per_row: int
) -> None:
    monkeypatch.setattr(inspection_module, "SAMPLES", 40)
    directory = prepared(tmp_path, of_all_lengths(), pairs_per_row=pairs_per_row)
    corpus = open_corpus(directory)
    segments = {index: rest for row in range(len(corpus.train)) for index, *rest in decoded(corpus, row)}
    shown = list(samples(list(inspection(directory))))
    assert len(shown) == 40
    for pair, said, first, second in shown:
        label, *texts = segments[pair]
        assert said == ("is from another document" if label else "is next")
        assert [first, second] == texts


def decoded(corpus: Corpus, row: int) -> Iterator[tuple[int, int, str, str]]:
    record, start = corpus.train[row], 0
    for index, label, (first, second) in zip(record["pairs"], record["labels"], record["lengths"], strict=True):
        ids = record["ids"][start : start + first + second].tolist()
        start += first + second
        yield (
            int(index),
            int(label),
            corpus.tokenizer.decode(ids[1 : first - 1]),
            corpus.tokenizer.decode(ids[first:-1]),
        )


def test_without_next_sentence_there_are_texts_and_no_labels(tmp_path: Path) -> None:
    lines = list(inspection(prepared(tmp_path, documents(), next_sentence=False)))
    assert sum(line.startswith("  text: ") for line in lines) == 3
    assert not any("random" in line and "%" in line for line in lines)
    assert lines[-1] == FINE


def test_top_tokens_are_those_of_the_training_rows(tmp_path: Path) -> None:
    lines = list(inspection(prepared(tmp_path, documents())))
    corpus = open_corpus(tmp_path / "out")
    start = next(i for i, line in enumerate(lines) if line.startswith("most frequent tokens"))
    token, share = lines[start + 1].split()[:2]
    assert token == corpus.tokenizer.piece(int(corpus.token_counts.argmax())) == "."
    assert share == f"{corpus.token_counts.max() / corpus.token_counts.sum():.1%}"


def test_of_many_rows_a_sample_is_read_and_this_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepared(tmp_path, documents())
    monkeypatch.setattr(inspection_module, "ROWS", 20)
    total = len(open_corpus(directory).train)
    lines = list(inspection(directory))
    assert f"from 20 of {total:,} training rows, drawn at random" in lines
    assert lines == list(inspection(directory))


@pytest.mark.parametrize(
    ("texts", "settings", "warning"),
    [
        (documents(40), {}, "only 40 documents (fewer than 100)"),
        (documents(120, sentences=1), {}, "100.0% of the pairs were cut from a chunk of one sentence"),
        (
            [f"{text} L'été dâ€™or." for text in documents()],
            {"cased": True},
            "UTF-8 read as another encoding, such as 'â€'",
        ),
        ([f"{text} L'Ã©tat." for text in documents()], {}, "UTF-8 read as another encoding, such as 'a©'"),
        ([f"{text} Ð¼Ð°." for text in documents()], {}, "UTF-8 read as another encoding, such as 'ð¼'"),
        ([f"{text} caf\ufffd." for text in documents()], {}, "130 characters of the sources are U+FFFD"),
        (documents() + [f"{text} Twice." for text in documents(40)], {}, "sampled texts nearly repeat another"),
    ],
)
def test_what_will_hurt_is_said_once(tmp_path: Path, texts: list[str], settings: dict[str, Any], warning: str) -> None:
    found = warnings(prepared(tmp_path, texts, **settings))
    assert len(found) == 1
    assert warning in found[0]


def test_a_vocabulary_that_does_not_fit_is_said(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS[:60]]) + "\n")
    (found,) = warnings(prepared(tmp_path, documents(), vocab=str(vocab)))
    share = open_corpus(tmp_path / "out").manifest["splits"]["train"]["unknown_share"]
    assert f"{share:.1%} of the tokens are unknown (more than 5%)" in found


def test_passes_repeat_no_documents(tmp_path: Path) -> None:
    assert warnings(prepared(tmp_path, documents(), passes=4)) == []


def test_ordinary_letters_are_no_mojibake(tmp_path: Path) -> None:
    ending = "São João, naïve façade, garçon, â la carte, 5 €, a²+b²=c², Ñandú, «Ça va», Đà Nẵng, мама, 25 °C, niñez."
    for cased in (False, True):
        (tmp_path / str(cased)).mkdir()
        texts = [f"{text} {ending}" for text in documents()]
        assert not any("encoding" in found for found in warnings(prepared(tmp_path / str(cased), texts, cased=cased)))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    directory = prepared(tmp_path, documents())
    shard = directory / "corpus-validation.array_record-00000-of-00001"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard} is not what was written; prepare the corpus again"):
        next(inspection(directory))

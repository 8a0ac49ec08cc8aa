"""Are our features of texts and pairs of texts those of google-research/bert's run_classifier.py, on any text?

    python -m benchmarks.google_features SCRIPT --vocab vocab.txt [--data pairs.tsv... --text NAME --second NAME]

SCRIPT is run_classifier.py, beside the other files of its repository; its convert_single_example runs as it stands,
without TensorFlow. It gets the pairs of the tables, if any are named, and pairs that are drawn here from what such code
trips over: accents, capitals with several lower-case letters, Chinese, white space of every kind, control characters,
special tokens, endless words, empty texts, pairs of every length around the limit.

Prints one JSON line with how many were compared and how many differ in ids, mask or segments; exits with 1 if any does.
"""

from __future__ import annotations

import dataclasses
import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tyro

from benchmarks.google_script import stand_in
from benchmarks.result import print_result
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import reported
from bertjax.tasks import batches, text_examples

NASTY = (
    *(
        "",
        " ",
        "\t",
        "\n",
        "\r\n",
        "\x0b",
        "\x1c",
        "\x85",
        "\xa0",
        "\u2028",
        "\u3000",
        "\x00",
        "\ufffd",
        "\u200b",
        "\u00ad",
    ),
    *(
        "é",
        "e\u0301",
        "E\u0301\u0327",
        "Å",
        "İ",
        "ẞ",
        "ŉ",
        "ﬁ",
        "Ⅷ",
        "ΟΔΟΣ",
        "Σ",
        "ǅ",
        "\ue000",
        "\U0001f600",
        "\u0301",
    ),
    *("中国", "日本語", "雨", "한국어", "ไทย", "नमस्ते", "שלום", "مرحبا", "\U00020000"),
    *(
        "[SEP]",
        "[CLS]",
        "[MASK]",
        "[PAD]",
        "[UNK]",
        "##ing",
        "##",
        "[",
        "]",
        "'",
        '"',
        "''",
        "--",
        "…",
        "$",
        "^",
        "`",
        "|",
    ),
    *("a" * 200, "b" * 201, "antidisestablishmentarianism", "xqzj", "3.14", "1,000", "U.S.", "e-mail", "don't"),
)
WORDS = ("the", "Film", "is", "a", "MOVIE", "about", "unaffable", "people", "who", "were", "running", "and", ",", ".")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares the features of texts and of pairs with those of Google's script."""

    script: tyro.conf.Positional[str]
    """run_classifier.py."""
    vocab: str
    """A WordPiece vocabulary, an entry a line."""
    data: tuple[str, ...] = ()
    """Tables with texts or pairs of texts."""
    text: str = "sentence1"
    """Column of the first text."""
    second: str | None = "sentence2"
    """Column of the second text."""
    cased: bool = False
    """Whether the vocabulary has upper-case letters."""
    seq_len: int = 64
    """Most tokens."""
    drawn: int = 20_000
    """Pairs drawn here; of every fifth there is only the first text."""
    seed: int = 0
    """Of the draw."""


def google(a: Arguments) -> tuple[ModuleType, Any]:
    """Returns the script as a module, and its tokenizer."""
    sys.modules["tensorflow"] = stand_in()
    for unused in ("modeling", "optimization"):
        sys.modules[unused] = ModuleType(unused)
    sys.path.insert(0, str(Path(a.script).resolve().parent))
    program: Any = importlib.import_module(Path(a.script).stem)
    return program, program.tokenization.FullTokenizer(vocab_file=a.vocab, do_lower_case=not a.cased)


def examples(a: Arguments) -> Iterator[text_examples.Example]:
    """Yields what is compared: the tables' rows, and what is drawn."""
    for path in a.data:
        yield from text_examples.read_examples(
            path, text_examples.Columns(a.text, a.second), lambda *_, **__: None, label_required=False
        )
    draw = random.Random(a.seed)
    for i in range(a.drawn):
        yield text_examples.Example(
            nasty_text(draw, a.seq_len), nasty_text(draw, a.seq_len) if i % 5 else None, None, i
        )


def nasty_text(draw: random.Random, seq_len: int) -> str:
    """Returns words and what is odd, with or without space between, now short and now beyond `seq_len` tokens."""
    pool = NASTY if draw.random() < 0.3 else WORDS * 4 + NASTY
    parts = (
        draw.choice(pool) + draw.choice((" ", " ", " ", ""))
        for _ in range(draw.choice((0, 1, 3, seq_len // 2, seq_len)))
    )
    return "".join(parts)


def compare(a: Arguments) -> dict[str, Any]:
    """Returns the counts, and prints the first examples that differ."""
    program, their_tokenizer = google(a)
    all_of_them = list(examples(a))
    tokenizer = Tokenizer.from_vocab(a.vocab, cased=a.cased)
    made = text_examples.features(all_of_them, tokenizer, a.seq_len, ())
    different = 0
    for i, example in enumerate(all_of_them):
        theirs = program.convert_single_example(
            len(all_of_them),  # the script shows its first ones
            program.InputExample(guid=str(i), text_a=example.text, text_b=example.second, label=""),
            [""],
            a.seq_len,
            their_tokenizer,
        )
        batch = batches.make_batch(made, batches.Choice(np.array([i]), a.seq_len), 1)
        ours = [batch[name][0].tolist() for name in ("ids", "spans", "segments")]
        if ours != [theirs.input_ids, theirs.input_mask, theirs.segment_ids]:
            different += 1
            if different <= 3:
                print(f"differs: {example}", file=sys.stderr)
    pairs = sum(bool(example.second) for example in all_of_them)
    return {"texts": len(all_of_them) - pairs, "pairs": pairs, "cut": made.truncated, "different": different}


def main() -> None:
    """The command."""
    a = tyro.cli(Arguments, description=__doc__)
    with reported():
        found = compare(a)
        print_result("google_features", dataclasses.asdict(a) | found, "tokenizers")
    sys.exit(found["different"] > 0)


if __name__ == "__main__":
    main()

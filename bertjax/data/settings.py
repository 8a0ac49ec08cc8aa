"""How a corpus is prepared."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bertjax.data.documents import EncodingErrors


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """The settings, each with its meaning; --help shows them."""

    output: str
    """The directory to write. One that holds the same corpus already is left as it is."""
    vocab: str | None = None
    """A BERT vocabulary file; None learns one from the first 200 MB of the text."""
    vocab_size: int = 30522
    """Entries of the vocabulary that is learned, at most."""
    cased: bool = False
    """Keep upper case and accents."""
    seq_len: int | tuple[int, ...] = 128
    """Longest row, with its special tokens. Several give a corpus each, in OUTPUT/128, OUTPUT/512, ..."""
    pairs_per_row: int = 1
    """Pairs that may share a row, each seen by itself alone; 8 leave next to no padding in rows of 512."""
    passes: int = 1
    """Times that segments and negatives are drawn anew from the training documents, Google's dupe_factor."""
    next_sentence: Annotated[bool, tyro.conf.arg(aliases=["--nsp"])] = True
    """Pairs of segments for next-sentence prediction; without it, full sentences up to the length of a row, and models
    with the masked-LM head alone."""
    short_share: float = 0.1
    """Share of the documents whose pairs aim at a random shorter length."""
    validation_share: float = 0.01
    """Share of the documents that is held out."""
    workers: int = 0
    """Processes; 0 takes one a core. The result does not depend on it."""
    beam: str | None = None
    """Work on an Apache Beam runner with these options of Beam's, such as `--runner=DirectRunner` (docs/beam.md)."""
    seed: int = 0
    """Of the segments and negatives."""
    encoding_errors: EncodingErrors = "strict"
    """`replace` puts U+FFFD for bytes that are not UTF-8."""
    skip_bad_lines: bool = False
    """Leave out lines of .jsonl that are no such JSON, and count them in the manifest."""
    input_format: Literal["txt", "jsonl"] | None = None
    """Of standard input, which is named `-`."""

    def __post_init__(self) -> None:
        checks = {
            f"vocab_size={self.vocab_size} is too small; use at least 64": self.vocab_size >= 64,
            f"seq_len={self.seq_len} names no length, or one twice": 0 < len(set(self.lengths)) == len(self.lengths),
            f"seq_len={self.seq_len} is too short; use at least 8": min(self.lengths, default=8) >= 8,
            f"pairs_per_row={self.pairs_per_row} is not greater than 0": self.pairs_per_row > 0,
            f"passes={self.passes} is not greater than 0": self.passes > 0,
            f"passes={self.passes} would repeat the same rows without next-sentence pairs; use 1": self.passes == 1
            or self.next_sentence,
            f"short_share={self.short_share} is not between 0 and 1": 0 <= self.short_share <= 1,
            f"validation_share={self.validation_share} is not between 0 and 1": 0 < self.validation_share < 1,
            f"workers={self.workers} is negative; 0 takes one a core": self.workers >= 0,
            f"seed={self.seed} is negative": self.seed >= 0,
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of rows that are prepared."""
        return (self.seq_len,) if isinstance(self.seq_len, int) else self.seq_len

    def directories(self, top: Path) -> dict[int, Path]:
        """Returns the directory of each length: `top`, or one in it for each of several."""
        return {n: top / str(n) if len(self.lengths) > 1 else top for n in self.lengths}

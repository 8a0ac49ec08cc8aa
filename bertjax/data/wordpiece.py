"""The ids of a text as google-research/bert computes them, by the tables of the running Python; each word once.

White space parts the text into words of which none depends on another, and so does each Chinese character. The ids of
a word are computed once, character by character as Google's code does, and remembered: that is exact on any text, and
faster than to tokenize every occurrence, since most words of a text are among a few thousand.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

MOST_WORDS = 1 << 18  # remembered; about 50 MB, and the distinct words of some 25 MB of English
LONGEST_REMEMBERED = 64  # characters; longer ones seldom come twice

# Python's `split` parts words at these control characters, Google's code has removed them before.
_REMOVED_WHITE_SPACE = re.compile("[\x0b\x0c\x1c-\x1f\x85]")
_CHINESE = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df"
    "\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)


class WordPieceSettings(NamedTuple):
    """What a tokenizer says about itself."""

    unknown: str
    """The piece for what cannot be made up of pieces."""
    prefix: str
    """Before pieces that continue a word."""
    max_word_length: int
    """Characters; a longer word is unknown."""
    lowercase: bool
    strip_accents: bool
    split_chinese: bool


class WordPiece(dict[str, bytes]):
    """From a word (no white space in it) to its ids as bytes of `dtype`, computed when it is first asked for.

    Source: google-research/bert, tokenization.py (FullTokenizer).
    """

    def __init__(self, vocabulary: Mapping[str, int], settings: WordPieceSettings, dtype: type[np.generic]):
        super().__init__()
        self._settings = settings
        self._dtype = dtype
        self._pieces = _Pieces({piece: dtype(token_id).tobytes() for piece, token_id in vocabulary.items()}, settings)
        self._cleaned = _Cleaned()
        self._parted = _Parted()
        self._words = re.compile(rf"[{_CHINESE}]|[^\s{_CHINESE}]+" if settings.split_chinese else r"\S+")

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the text, without special tokens."""
        text = _REMOVED_WHITE_SPACE.sub("\0", text)  # which is removed, too, and does not part words
        words = text.split() if text.isascii() else self._words.findall(text)
        return np.frombuffer(b"".join(map(self.__getitem__, words)), self._dtype)

    def words(self, text: str) -> Iterator[re.Match[str]]:
        """Yields the words of the text, with their places."""
        return self._words.finditer(_REMOVED_WHITE_SPACE.sub("\0", text))

    def __missing__(self, word: str) -> bytes:
        ids = b"".join(map(self._pieces.__getitem__, self._parts(word)))
        _remember(self, word, ids)
        return ids

    def _parts(self, word: str) -> list[str]:
        """Returns what normalization leaves of the word, parted at punctuation."""
        if not (word.isascii() and word.isprintable()):
            word = word.translate(self._cleaned)
        if self._settings.lowercase:
            word = word.lower()
        if self._settings.strip_accents and not word.isascii():
            decomposed = unicodedata.normalize("NFD", word)
            word = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        return [word] if word.isalnum() else word.translate(self._parted).split()


class _Pieces(dict[str, bytes]):
    """From a part of a word to the ids of the longest pieces that make it up, from its start on, or of [UNK]."""

    def __init__(self, vocabulary: Mapping[str, bytes], settings: WordPieceSettings):
        super().__init__()
        self._vocabulary = vocabulary
        self._unknown = vocabulary[settings.unknown]
        self._prefix = settings.prefix
        self._max_word_length = settings.max_word_length
        self._longest_piece = max(map(len, vocabulary))

    def __missing__(self, part: str) -> bytes:
        ids = self._unknown if len(part) > self._max_word_length else self._taken_apart(part)
        _remember(self, part, ids)
        return ids

    def _taken_apart(self, part: str) -> bytes:
        ids, start, prefix = b"", 0, ""
        while start < len(part):
            for end in range(min(len(part), start + self._longest_piece), start, -1):
                token_id = self._vocabulary.get(prefix + part[start:end])
                if token_id is not None:
                    break
            else:
                return self._unknown
            ids += token_id
            start, prefix = end, self._prefix
        return ids


def _remember(words: dict[str, bytes], word: str, ids: bytes) -> None:
    if len(word) <= LONGEST_REMEMBERED:
        if len(words) >= MOST_WORDS:
            words.clear()
        words[word] = ids


class _Cleaned(dict[int, str]):
    """From the code of a character of a word to what cleaning leaves of it."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        self[code] = "" if code == 0xFFFD or category in ("Cc", "Cf") else character
        return self[code]


class _Parted(dict[int, str]):
    """From the code of a character to itself, between spaces if it is punctuation."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        symbol = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
        punctuation = symbol or unicodedata.category(character).startswith("P")
        self[code] = f" {character} " if punctuation else character
        return self[code]

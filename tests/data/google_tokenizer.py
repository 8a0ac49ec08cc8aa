"""What google-research/bert's tokenization.py does to a text, step by step over the whole text; slow and plain.

Written from its published behaviour as a second opinion on `bertjax.data.wordpiece`, which does it word by word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Container

CHINESE = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


def basic_tokens(text: str, *, lowercase: bool) -> list[str]:
    """Returns the words of BasicTokenizer(do_lower_case=lowercase)."""
    words = []
    for word in "".join(map(spaced, text)).split():
        plain = without_accents(word.lower()) if lowercase else word
        words += "".join(f" {c} " if is_punctuation(c) else c for c in plain).split()
    return words


def spaced(character: str) -> str:
    code = ord(character)
    if character in " \t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    if code in (0, 0xFFFD) or unicodedata.category(character) in ("Cc", "Cf"):
        return ""
    if any(first <= code <= last for first, last in CHINESE):
        return f" {character} "
    return character


def without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", word) if unicodedata.category(c) != "Mn")


def is_punctuation(character: str) -> bool:
    code = ord(character)
    in_ascii = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return in_ascii or unicodedata.category(character).startswith("P")


def pieces(text: str, vocabulary: Container[str], *, lowercase: bool) -> list[str]:
    """Returns the pieces of FullTokenizer(do_lower_case=lowercase)."""
    return [piece for word in basic_tokens(text, lowercase=lowercase) for piece in word_pieces(word, vocabulary)]


def word_pieces(word: str, vocabulary: Container[str]) -> list[str]:
    if len(word) > 200:
        return ["[UNK]"]
    found: list[str] = []
    rest = word
    while rest:
        candidates = ["##" * bool(found) + rest[:end] for end in range(len(rest), 0, -1)]
        longest = next((piece for piece in candidates if piece in vocabulary), None)
        if longest is None:
            return ["[UNK]"]
        rest = rest[len(longest) - 2 * bool(found) :]
        found.append(longest)
    return found

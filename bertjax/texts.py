"""What can be asked of a model: texts and pairs of them, looked at before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

from bertjax.errors import UserError

Text = str | tuple[str, str]
"""A text, or a pair of texts."""

SHORTEN = "shorten it, or pass truncate=True (--truncate)"


def texts_of(texts: Any, *, pairs: bool = False) -> list[Any]:
    """Returns the texts as a list, with `pairs` also of pairs of them; one text or one pair is a list of one.

    Raises: UserError, with which one, if something is not a text, or is empty.
    """
    if not isinstance(texts, str | Sequence):
        raise UserError(f"{shown(texts)} is not a text; give a string or a list of strings")
    one_pair = pairs and isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(one, str) for one in texts)
    listed = [texts] if isinstance(texts, str) or one_pair else list(texts)
    for i, text in enumerate(listed):
        parts = text if pairs and isinstance(text, tuple) and len(text) == 2 else (text,)
        for part in parts:
            if not isinstance(part, str):
                wanted = "a string, or a tuple of two" if pairs else "a string"
                raise UserError(f"texts[{i}] is not a text: {shown(part)}; give {wanted}")
            if not part.strip():
                raise UserError(f"texts[{i}] is empty; leave it out")
            if not part.isascii() and any("\ud800" <= character <= "\udfff" for character in part):
                raise UserError(f"texts[{i}] holds half of a surrogate pair: {shown(part)}; write whole characters")
    return listed


def check_lengths(ids: Sequence[Sized], longest: int, remedy: str, where: str = "with [CLS] and [SEP]") -> None:
    """Raises UserError, with which one and the remedy, if a text has more than `longest` tokens."""
    for i, row in enumerate(ids):
        if len(row) > longest:
            raise UserError(f"texts[{i}] has {len(row)} tokens {where}, the model reads at most {longest}; {remedy}")


def shown(value: Any) -> str:
    """Returns a value as a message shows it, its end left out where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

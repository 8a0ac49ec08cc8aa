"""Docstrings as running English: markup of the NumPy, Google and Sphinx styles taken off as far as expressions go."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_PROSE_DIRECTIVES = "admonition|caution|deprecated|hint|important|note|tip|warning"
_LISTS = "See [Aa]lso|References?|Methods"  # sections of names and publications, not of sentences

# Applied in this order to the whole docstring. What is left out leaves a blank line, so that paragraphs stay apart.
# `(?:\1 +\S.*\n|\n)*` is a block: the lines that are indented more than its first line, and blank lines.
_BLOCKS = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"[ \t]+$", ""),
        (r"^ *(```|~~~)(?:.*\n)*? *\1.*$", ""),  # fenced code
        (r"^ *(?:>>>|\.\.\. |\$ |In \[)(?:.+\n)*", "\n"),  # doctests with what they print
        (rf"^( *)\.\. ?(?:{_PROSE_DIRECTIVES})::(?: \d[\w.]*$)?", r"\n"),
        (r"^( *)\.\.(?: .*)?\n(?:\1 +\S.*\n|\n)*", "\n"),  # other directives, comments, targets
        (rf"^ *(?:{_LISTS})\n *[=-]{{3,}}\n(?:(?!.+\n *-{{3,}}$).*\n)*", "\n"),
        (rf"^( *)(?:{_LISTS}):\n(?:\1 +\S.*\n|\n)*", "\n"),
        (r"^( *)(.*)::\n\n*(?:\1 +\S.*\n|\n)*", r"\1\2:\n\n"),  # literal blocks
        (r"^.*\n *([-=~^*#+`\"'.:])\1{2,}$", ""),  # underlined headings
        (r"^ *[A-Z]\w*(?: \w+)?:$", ""),  # Google's headings, as `Returns:`
        (r"^ *:param (?:.* )?([\w*]+):", r"\n\1:"),
        (r"^ *:(?:type|rtype).*$", ""),
        (r"^ *[\w*`(\[{][\w*`, .()\[\]{}=-]* :(?: .*)?$", ""),  # NumPy's `count : int, optional`
        (r"^ *(?:[|+].*[|+]|\S+(?: \S+)* {3,}\S.* {3,}\S.*|\w+ *::=.*)$", ""),  # tables, grammars
        (r"^ *(?:[*•+-]|\(?(?:\d{1,2}|[a-z])[.)]) +", "\n"),  # bullets and numbers: every item is a paragraph
        (r"^ *(?=[*`']*\w[\w.]*[`']*(?: ?\([^()\n]*\))?: +\S)", "\n"),  # Google's `count (int): text` is one too
    )
]
_INLINE = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\w):[\w:+-]+:(?=`)", ""),  # the role of :func:`name`
        (r"`+[~!]?\.?((?:[^`<>\n]|\n(?!\n))*?)(?:\s*<[^`<>]*>)?`+_{0,2}", r"\1"),  # ``code``, `title <address>`_
        (r"\[([^][]+)\]\((?:https?:)?[^ ()]*\)", r"\1"),  # [title](address)
        (r" ?\[[\w.-]+\]_", ""),  # [1]_
        (r"<?https?://\S*[\w/>]", ""),
        (r"(?<!\w)(\*\*?)(\w[^*\n]*\S)\1", r"\2"),
        (r"\|(\w+)\|", r"\1"),
    )
]
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SYMBOL = re.compile(r"[=_\[\]{}\\<>|$@]")
_NOT_A_LETTER = re.compile(r"[^A-Za-z ]")
FEWEST_CHARACTERS, FEWEST_SENTENCES = 150, 2
_SENTENCE_END = re.compile(r"[a-z)][.!?](?= |$)")


def prose(docstring: str) -> list[str]:
    """Returns the paragraphs that are English, each as one line without markup."""
    text = inspect.cleandoc(docstring) + "\n"
    for pattern, replacement in _BLOCKS + _INLINE:
        text = pattern.sub(replacement, text)
    paragraphs = (" ".join(paragraph.split()) for paragraph in _PARAGRAPH_END.split(text))
    return [paragraph for paragraph in paragraphs if _is_english(paragraph)]


def is_document(paragraphs: Sequence[str]) -> bool:
    """Tells whether there is enough to read."""
    text = " ".join(paragraphs)
    return len(text) >= FEWEST_CHARACTERS and len(_SENTENCE_END.findall(text)) >= FEWEST_SENTENCES


def _is_english(text: str) -> bool:
    """Three words or more, few symbols of programs, nearly all of it letters."""
    symbols, others = len(_SYMBOL.findall(text)), len(_NOT_A_LETTER.findall(text))
    return text.count(" ") >= 2 and symbols <= 0.04 * len(text) and others <= 0.2 * len(text)

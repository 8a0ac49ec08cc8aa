# ruff: noqa: RUF001 - the look-alikes are what is tested
import random
import unicodedata

import numpy as np
import pytest

from bertjax.data import wordpiece as module
from bertjax.data.tokenizer import SPECIAL_PIECES, Tokenizer
from bertjax.data.wordpiece import WordPiece, WordPieceSettings
from tests.data import google_tokenizer

GREEK = "ΟΔΟΣ Σ ΑΣΑ ΑΣ. ΑΣ' Σ́"  # a capital sigma becomes ς at a word's end only
ADVERSARIAL = [
    GREEK,
    "[MASK] [SEP]x [CLS]. ##ing # [UNK]",
    "a\x00b\x0bc\x0cd\x1ce\x1df\x1eg\x1fh\x85i\ufffdj\u200bk\u00adl\ufeffm",
    "tab\tline\nreturn\r\nno-break\u00a0wide\u3000line\u2028paragraph\u2029end",
    "Ångström naïve İstanbul ǅ ﬁne Ⅷ ẞ ŉ K Å e\u0301\u0327\u0301",
    "雨が降る。今日は𠮷野家\U0002b920\U0002ceb0 豈\U0002f800 한국어 각\u1100\u1161",
    "\u302e\U00016ff0a \u302e\U0001d165\u0301b",
    "🦊👩\u200d👩\u200d👧 \ue000x\uf8ff \U000f0000 ᙭ ᜴ \U000111c9 \u0600\u061c",
    "«¿Qué?» — it's 3.5 % of $5^2=`x|y~z",
    "s" * 200 + " " + "s" * 201 + " " + "é" * 201 + " " + "İ" * 199,
    "",
    " \u200b ",
]
VOCABULARY = [
    *SPECIAL_PIECES,
    *"abcdefghijklmnosxyzοδςσα雨今.[]#'",
    "##s",
    "##ing",
    "mask",
    "sep",
    "οδος",
    "##ς",
    "##σ",
]
VOCABULARY += ["##x", "Α", "##Σ", "e", "豈", "##b", "##c", "\ue000", "##\ue000"]
VOCABULARY = list(dict.fromkeys(VOCABULARY))


def make_wordpiece(*, lowercase: bool, vocabulary: list[str] = VOCABULARY) -> WordPiece:
    settings = WordPieceSettings(
        unknown="[UNK]",
        prefix="##",
        max_word_length=200,
        lowercase=lowercase,
        strip_accents=lowercase,
        split_chinese=True,
    )
    return WordPiece({piece: token_id for token_id, piece in enumerate(vocabulary)}, settings, np.uint16)


def basic_tokens(wordpiece: WordPiece, text: str) -> list[str]:
    return [part for word in wordpiece.words(text) for part in wordpiece._parts(word.group())]


@pytest.mark.parametrize(("lowercase", "context"), [(True, "a{}b{}"), (False, "雨{}b")])
def test_every_character_is_read_as_google_reads_it(lowercase: bool, context: str) -> None:
    wordpiece = make_wordpiece(lowercase=lowercase)
    for start in range(0, 0x110000, 256):
        characters = [chr(code) for code in range(start, start + 256) if not 0xD800 <= code < 0xE000]
        if start > 0x3FFFF and not any(map(unicodedata.name, characters, [""] * 256)):
            characters = characters[::16]  # nothing is assigned here, or all of it is private
        text = "\n".join(context.format(character, character) for character in characters)
        assert basic_tokens(wordpiece, text) == google_tokenizer.basic_tokens(text, lowercase=lowercase)


@pytest.mark.parametrize("lowercase", [True, False])
def test_ids_are_googles_on_adversarial_texts(lowercase: bool) -> None:
    draw = random.Random(0)
    alphabet = "".join(ADVERSARIAL)
    texts = ADVERSARIAL + ["".join(draw.choices(alphabet, k=draw.randrange(30))) for _ in range(3000)]
    vocabulary = [piece for piece in VOCABULARY if not lowercase or piece in SPECIAL_PIECES or piece == piece.lower()]
    wordpiece = make_wordpiece(lowercase=lowercase, vocabulary=vocabulary)
    known = 0
    for text in texts:
        ids = wordpiece.encode(text).tolist()
        expected = google_tokenizer.pieces(text, set(vocabulary), lowercase=lowercase)
        assert [vocabulary[token_id] for token_id in ids] == expected
        known += sum(token_id != 1 for token_id in ids)
    assert known > 1_500


def test_the_tokenizers_library_differs_on_some_characters_only() -> None:
    # The reason for the way of our own. Their tables are older than Python's, or newer; private use has no tables.
    tokenizer = Tokenizer.train(["a", "a"], vocab_size=64)
    wordpiece = make_wordpiece(lowercase=True)

    def theirs(text: str) -> list[str]:
        backend = tokenizer._backend
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]

    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    public = [character for character in characters if unicodedata.category(character) not in ("Co", "Cn")]
    different = {c for c in public if theirs(f"a{c}b a{c}") != basic_tokens(wordpiece, f"a{c}b a{c}")}
    assert "Σ" in different
    assert len(different) < 1000
    assert all(theirs(f"a{c}b") != basic_tokens(wordpiece, f"a{c}b") for c in "\ue000\U000f0000")


def test_settings_of_its_own_are_kept() -> None:
    settings = WordPieceSettings(
        unknown="?", prefix="@", max_word_length=3, lowercase=True, strip_accents=False, split_chinese=False
    )
    vocabulary = ["?", "é", "@b", "今x", "a"]
    wordpiece = WordPiece({piece: token_id for token_id, piece in enumerate(vocabulary)}, settings, np.int32)
    assert wordpiece.encode("Éb éba aaab 今X").tolist() == [1, 2, 0, 0, 3]
    assert wordpiece.encode("a").dtype == np.int32


def test_remembered_words_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WORDS", 3)
    wordpiece = make_wordpiece(lowercase=True)
    text = "a b c d a b " + "a" * 65
    assert wordpiece.encode(text).tolist() == make_wordpiece(lowercase=True).encode(text).tolist()
    assert len(wordpiece) <= 3
    assert "a" * 65 not in wordpiece


def test_time_grows_with_the_length_only() -> None:
    wordpiece = make_wordpiece(lowercase=True)
    assert wordpiece.encode("雨" * 500_000).tolist() == [VOCABULARY.index("雨")] * 500_000
    assert wordpiece.encode("é" * 1_000_000).tolist() == [1]
    assert len(wordpiece.encode("a." * 500_000)) == 1_000_000

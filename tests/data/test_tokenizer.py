# ruff: noqa: RUF001 - the look-alikes are what is tested
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax.data.tokenizer import SPECIAL_PIECES, Tokenizer
from bertjax.errors import UserError
from tests.interop.folders import bpe_tokenizer

VOCABULARY = [
    *SPECIAL_PIECES,
    "the",
    "un",
    "##aff",
    "##able",
    "ca",
    "##fe",
    "[",
    "]",
    "mask",
    ".",
    "雨",
    "\u2028",
    "##s",
]
TEXTS = [
    "The moss grows slowly, slower than grass.",
    "Grass grows; moss waits. 雨が降る。",
    "Slow moss, slow grass!",
] * 3


def vocabulary_file(tmp_path: Path, pieces: list[str], end: str = "\n") -> Path:
    path = tmp_path / "vocab.txt"
    path.write_bytes("".join(piece + end for piece in pieces).encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("trailing", [[], ["", ""]])
def test_ids_are_the_lines_of_the_file(tmp_path: Path, end: str, trailing: list[str]) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, VOCABULARY + trailing, end))
    assert tokenizer.pieces == VOCABULARY
    assert [tokenizer.id_of(piece) for piece in VOCABULARY] == list(range(len(VOCABULARY)))
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert tokenizer.special_ids == (0, 2, 3, 4)


def test_text_becomes_pieces_with_their_places(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, VOCABULARY))
    text = "The  unaffable CAFÉ.雨x"
    ids, pieces, offsets = tokenizer.encode_with_offsets(text)
    assert pieces == ["the", "un", "##aff", "##able", "ca", "##fe", ".", "雨", "[UNK]"]
    assert [text[start:end] for start, end in offsets] == ["The", "un", "aff", "able", "CA", "FÉ", ".", "雨", "x"]
    assert tokenizer.encode_batch([text, ""]) == [ids, []]
    assert tokenizer.decode([2, *ids[:4], 3]) == "[CLS] the unaffable [SEP]"


def test_special_pieces_in_a_text_are_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, VOCABULARY))
    tokenizer.save(tmp_path)
    for same in (tokenizer, Tokenizer.load(tmp_path)):
        assert same.encode_with_offsets("[MASK]")[1] == ["[", "mask", "]"]


def test_places_are_those_of_the_word_where_the_library_reads_otherwise(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, [*VOCABULARY, "οδος", "o", "##δος"]))
    text = "The\x1f ΟΔΟΣ oΔΟΣ cafe\ue000"
    ids, pieces, offsets = tokenizer.encode_with_offsets(text)
    assert pieces == ["the", "οδος", "o", "##δος", "[UNK]"]
    assert [text[start:end] for start, end in offsets] == ["The", "ΟΔΟΣ", "oΔΟΣ", "oΔΟΣ", "cafe\ue000"]
    assert tokenizer.encode_batch([text]) == [ids]


def edited(tmp_path: Path, edit: Callable[[dict[str, Any]], object]) -> Tokenizer:
    """Returns a tokenizer whose tokenizer.json says something else than ours do."""
    Tokenizer.from_vocab(vocabulary_file(tmp_path, VOCABULARY)).save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer.json").read_text())
    edit(settings)
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    return Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("edit", "pieces"),
    [
        (dict, ["the", "ca", "##fe", "雨", "[UNK]"]),
        (lambda s: s["model"].update(max_input_chars_per_word=3), ["the", "[UNK]", "雨", "[UNK]"]),
        (lambda s: s["normalizer"].update(lowercase=False), ["[UNK]", "[UNK]", "雨", "[UNK]"]),
        (lambda s: s["normalizer"].update(strip_accents=False), ["the", "[UNK]", "雨", "[UNK]"]),
        (lambda s: s["normalizer"].update(handle_chinese_chars=False), ["the", "ca", "##fe", "[UNK]"]),
        (lambda s: s.update(normalizer={"type": "Lowercase"}), ["the", "[UNK]", "[UNK]"]),
    ],
)
def test_what_a_tokenizer_says_about_itself_is_kept(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object], pieces: list[str]
) -> None:
    tokenizer = edited(tmp_path, edit)
    ids, found, _ = tokenizer.encode_with_offsets("The café 雨x")
    assert found == pieces
    assert tokenizer.encode_batch(["The café 雨x"]) == [ids]
    own = Tokenizer.from_vocab(tmp_path / "vocab.txt")
    assert (tokenizer.fingerprint == own.fingerprint) == (pieces == ["the", "ca", "##fe", "雨", "[UNK]"])


def test_words_of_200_characters_are_taken_apart(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, [*VOCABULARY, "s"]))
    sizes = [
        [len(ids) for ids in tokenizer.encode_batch(["s" * 200])],
        [len(i) for i in tokenizer.encode_batch(["s" * 201])],
    ]
    assert sizes == [[200], [1]]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([piece for piece in VOCABULARY if piece != "[MASK]"], r"has no \[MASK\]"),
        ([*VOCABULARY, "the"], r"vocab\.txt:19: the piece 'the' stands on line 6"),
        ([*VOCABULARY, "", "x"], r"vocab\.txt:19 is empty"),
        ([*VOCABULARY, "##The"], r"vocab\.txt:19: the piece '##The' has upper-case .*--cased"),
    ],
)
def test_unfit_vocabularies_are_refused(tmp_path: Path, pieces: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tokenizer.from_vocab(vocabulary_file(tmp_path, pieces))


def test_a_vocabulary_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"the\n\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.from_vocab(tmp_path / "vocab.txt")


def test_cased_vocabularies_keep_case_and_accents(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, [*VOCABULARY, "The", "É"]), cased=True)
    assert tokenizer.encode_with_offsets("The É the E")[1] == ["The", "É", "the", "[UNK]"]
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).cased


def test_pieces_and_ids_out_of_the_vocabulary_are_named(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_vocab(vocabulary_file(tmp_path, VOCABULARY))
    for wrong in (-1, 18):
        with pytest.raises(UserError, match=f"id {wrong} is not in the vocabulary; ids go from 0 to 17"):
            tokenizer.piece(wrong)
    with pytest.raises(UserError, match="no piece 'x'"):
        tokenizer.id_of("x")


def test_training_learns_frequent_words_and_covers_every_character() -> None:
    tokenizer = Tokenizer.train(iter(TEXTS), vocab_size=90)
    assert tokenizer.vocab_size <= 90
    assert tokenizer.pieces[:5] == list(SPECIAL_PIECES)
    assert {"moss", "slow", "grass", "雨"} <= set(tokenizer.pieces)
    assert "##雨" not in tokenizer.pieces
    assert all(tokenizer.unk_id not in ids for ids in tokenizer.encode_batch(TEXTS))


def test_single_characters_take_a_third_of_the_vocabulary_at_most() -> None:
    many = ["".join(chr(0x4E00 + n) for n in range(500))] * 3
    tokenizer = Tokenizer.train(many, vocab_size=300)
    assert sum(len(piece) == 1 for piece in tokenizer.pieces) == 100
    assert tokenizer.vocab_size <= 300


def test_training_is_the_same_in_every_process() -> None:
    program = f"from bertjax.data.tokenizer import Tokenizer; print(Tokenizer.train({TEXTS}, vocab_size=90).pieces)"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in "123"
    }
    assert len(outputs) == 1


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(TEXTS, vocab_size=80)
    tokenizer.save(tmp_path / "new" / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "new" / "tokenizer")
    assert loaded.pieces == tokenizer.pieces
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    again = Tokenizer.from_vocab(tmp_path / "new" / "tokenizer" / "vocab.txt")
    assert again.fingerprint == tokenizer.fingerprint


def test_case_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    path = vocabulary_file(tmp_path, VOCABULARY)
    assert Tokenizer.from_vocab(path).fingerprint != Tokenizer.from_vocab(path, cased=True).fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no readable tokenizer"),
        ("{", "no readable tokenizer"),
        ("{}", "no readable tokenizer"),
        (json.dumps({"model": {"type": "Unigram"}}), "holds a Unigram tokenizer"),
    ],
)
def test_directories_without_a_wordpiece_tokenizer_are_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parity
def test_hugging_face_reads_what_is_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")

    tokenizer = Tokenizer.train(TEXTS, vocab_size=80)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    (ids,) = tokenizer.encode_batch(TEXTS[:1])
    encoded = theirs(TEXTS[0], TEXTS[0])
    assert encoded["input_ids"] == [2, *ids, 3, *ids, 3]
    assert theirs.mask_token_id == tokenizer.mask_id
    assert len(theirs) == tokenizer.vocab_size


def test_byte_level_bpe_of_other_models_is_read_from_their_files(tmp_path: Path) -> None:
    bpe_tokenizer(tmp_path, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 1, 2, 4)
    assert tokenizer.mask_piece == "<mask>"
    assert tokenizer.decode(tokenizer.encode_batch(["Ünder the bridge"])[0]) == "Ünder the bridge"
    assert tokenizer.mask_id not in tokenizer.encode_batch(["a <mask> b"])[0]
    parted = next(piece for piece in tokenizer.pieces if piece.startswith("Ġ") and len(piece) > 2)
    assert tokenizer.appended("river ", tokenizer.id_of("s")) == "rivers"
    assert tokenizer.appended("river ", tokenizer.id_of(parted)) == f"river {parted[1:]}"
    assert tokenizer.appended("", tokenizer.id_of(parted)) == parted[1:]
    tokenizer.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint == tokenizer.fingerprint
    assert not (tmp_path / "again" / "vocab.txt").exists()

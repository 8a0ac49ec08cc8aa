"""WordPiece exactly as in BERT, trained here or taken from a file, kept in the form of Hugging Face's `tokenizers`.

The byte-level BPE of imported models (RoBERTa, ModernBERT) is read from their files and behaves the same otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from bertjax.data.wordpiece import WordPiece, WordPieceSettings
from bertjax.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SPECIALS = (SPECIAL_PIECES, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"))  # RoBERTa's names of the same
MAX_WORD_LENGTH = 200  # characters; a longer word is [UNK]. Google's limit, where `tokenizers` has 100
MOST_WORDS_WITH_OFFSETS = 1 << 17  # remembered with the places of their pieces; about 60 MB
RARE_SHARE = 1e-5  # of the characters in the training text, the rarest that get no entry
ALPHABET_SHARE = 1 / 3  # of the vocabulary, at most, for single characters


class Tokenizer:
    """A vocabulary and the way from text to its ids and back. Text that reads like `[SEP]` stays text."""

    def __init__(self, backend: tokenizers.Tokenizer, *, cased: bool):
        # Google splits a literal "[MASK]" in a text; without this it would become the special id. Not kept in files.
        backend.encode_special_tokens = True
        self._backend = backend
        self._wordpiece = _wordpiece(backend)
        self._words_with_offsets: dict[str, tuple[list[int], list[tuple[int, int]]]] = {}
        self.cased = cased
        self.vocab_size = backend.get_vocab_size()
        known = backend.get_vocab()
        self.special_pieces = next((s for s in SPECIALS if known.keys() >= set(s)), SPECIAL_PIECES)
        self.mask_piece = self.special_pieces[-1]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = map(self.id_of, self.special_pieces)
        # [UNK] is not among them: it stands for text.
        self.special_ids = (self.pad_id, self.cls_id, self.sep_id, self.mask_id)
        # [SEP], or what its file says: RoBERTa has two between the texts of a pair, so four special tokens in all.
        self.between_ids: Sequence[int] = [self.sep_id] * max(1, backend.num_special_tokens_to_add(True) - 2)

    @classmethod
    def from_vocab(
        cls, path: str | Path, *, cased: bool = False, strip_accents: bool | None = None, split_chinese: bool = True
    ) -> Tokenizer:
        """Returns the tokenizer of a BERT vocabulary file: a piece a line, its id the number of the line from 0.

        `strip_accents` is by default what `cased` is not.

        Raises: UserError if a special piece is missing, a piece stands twice, or the case does not fit.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text (byte {error.start}); name a BERT vocab.txt") from error
        # Only line feeds part pieces: some vocabularies hold U+2028, on which str.splitlines would split.
        pieces = text.rstrip("\r\n").replace("\r\n", "\n").split("\n")
        _check_pieces(pieces, path, cased=cased)
        backend = _backend(pieces, cased=cased)
        backend.normalizer = normalizers.BertNormalizer(
            lowercase=not cased, strip_accents=strip_accents, handle_chinese_chars=split_chinese
        )
        return cls(backend, cased=cased)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int, cased: bool = False) -> Tokenizer:
        """Returns a tokenizer with at most `vocab_size` entries learned from `texts`, which are held in memory.

        The same texts give the same vocabulary. It starts with [PAD] [UNK] [CLS] [SEP] [MASK]; a piece other than a
        character occurs at least twice.
        """
        texts = list(texts)
        backend = _backend(list(SPECIAL_PIECES), cased=cased)
        alphabet = _alphabet(texts, backend, most=int(vocab_size * ALPHABET_SHARE))
        # The trainer numbers the continuing characters in the order of a hash map, which differs from process to
        # process, and breaks ties between pieces by these numbers. Named as special they are numbered first.
        first = [*SPECIAL_PIECES, *alphabet, *(f"##{c}" for c in alphabet if _continues_words(c, backend))]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=first,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        vocabulary = backend.get_vocab()
        return cls(_backend(sorted(vocabulary, key=vocabulary.__getitem__), cased=cased), cased=cased)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Returns the tokenizer that `save` or Hugging Face wrote; what it says of truncation and padding is ignored.

        Raises: UserError if the file is missing or holds neither WordPiece nor BPE.
        """
        path = Path(directory) / "tokenizer.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            kind = settings["model"]["type"]
            lowercase = (settings.get("normalizer") or {}).get("lowercase", False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{directory} holds no readable tokenizer ({error}); prepare the corpus again") from error
        if kind not in ("WordPiece", "BPE"):
            raise UserError(f"{path} holds a {kind} tokenizer; only WordPiece and BPE can be read")
        backend = tokenizers.Tokenizer.from_file(str(path))
        backend.no_truncation()
        backend.no_padding()
        return cls(backend, cased=not lowercase)

    def save(self, directory: str | Path) -> None:
        """Writes tokenizer.json, tokenizer_config.json and WordPiece's vocab.txt, for Hugging Face's AutoTokenizer."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(directory / "tokenizer.json"))
        if self.is_wordpiece:
            (directory / "vocab.txt").write_text("".join(f"{piece}\n" for piece in self.pieces), encoding="utf-8")
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        inputs = ["input_ids", *(["token_type_ids"] if self.is_wordpiece else []), "attention_mask"]
        config = {
            # Not BertTokenizer: that class puts the longest word back to 100 characters.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "do_lower_case": not self.cased,
            **dict(zip(names, self.special_pieces, strict=True)),
            # Left out by that class unless they are named; without them a pair has one segment.
            "model_input_names": inputs,
        }
        text = json.dumps(config, indent=2) + "\n"
        (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @property
    def is_wordpiece(self) -> bool:
        """Whether pieces are WordPiece's, not BPE's."""
        return isinstance(self._backend.model, models.WordPiece)

    def encode(self, text: str) -> np.ndarray:
        """Returns the ids of the text, of type `id_dtype`, without special tokens."""
        if self._wordpiece is not None:
            return self._wordpiece.encode(text)
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, id_dtype(self.vocab_size))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without special tokens."""
        return [self.encode(text).tolist() for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[str], list[tuple[int, int]]]:
        """Returns ids, pieces and where each begins and ends in `text` (characters), without special tokens.

        Where `tokenizers` reads a word otherwise than Google's code, each piece of it has the place of the word.
        """
        if self._wordpiece is None:
            encoding = self._backend.encode(text, add_special_tokens=False)
            return encoding.ids, encoding.tokens, encoding.offsets
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for word in self._wordpiece.words(text):
            found, places = self._word_with_offsets(word.group())
            ids += found
            offsets += [(word.start() + start, word.start() + end) for start, end in places]
        return ids, [self.piece(token_id) for token_id in ids], offsets

    def _word_with_offsets(self, word: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns ids and places of a word, which are remembered: most words of a text come again."""
        known = self._words_with_offsets.get(word)
        if known is None:
            own = self.encode(word).tolist()
            theirs = self._backend.encode(word, add_special_tokens=False)
            known = own, theirs.offsets if theirs.ids == own else [(0, len(word))] * len(own)
            if len(self._words_with_offsets) < MOST_WORDS_WITH_OFFSETS:
                self._words_with_offsets[word] = known
        return known

    def decode(self, ids: Sequence[int]) -> str:
        """Returns readable text for the ids, the special ones included."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def appended(self, text: str, token_id: int) -> str:
        """Returns the text, which may end in spaces, with the piece behind it: glued to it if it continues a word."""
        if not self.is_wordpiece:
            return (text.rstrip() + self.decode([token_id])).lstrip(" " if not text.strip() else "")
        piece = self.piece(token_id)
        return text.rstrip() + piece[2:] if piece.startswith("##") else text + piece

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id. Raises: UserError if the vocabulary does not go that far."""
        piece = self._backend.id_to_token(token_id) if token_id >= 0 else None
        if piece is None:
            raise UserError(f"id {token_id} is not in the vocabulary; ids go from 0 to {self.vocab_size - 1}")
        return piece

    def id_of(self, piece: str) -> int:
        """Returns the id of a piece. Raises: UserError if the vocabulary does not hold it."""
        token_id = self._backend.token_to_id(piece)
        if token_id is None:
            raise UserError(f"the vocabulary of {self._backend.get_vocab_size()} entries holds no piece {piece!r}")
        return token_id

    @functools.cached_property
    def pieces(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        return [self.piece(token_id) for token_id in range(self.vocab_size)]

    @functools.cached_property
    def continues_V(self) -> np.ndarray:
        """Which pieces continue a word, bool [V]; of BPE none is known to."""
        return np.array([piece.startswith("##") for piece in self.pieces])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary and of how text is read: equal ones give equal ids."""
        parted = [] if len(self.between_ids) == 1 else [f"between={self.between_ids}"]
        text = "\n".join([repr(_settings(self._backend)), f"cased={self.cased}", *parted, *self.pieces])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def id_dtype(vocab_size: int) -> type[np.generic]:
    """Returns the smallest type of ids that TFDS stores for the vocabulary."""
    return np.uint16 if vocab_size <= 1 << 16 else np.int32


def _settings(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Returns what tokenizer.json says besides the vocabulary."""
    settings = json.loads(backend.to_str())
    del settings["model"]["vocab"]
    return {name: settings[name] for name in ("normalizer", "pre_tokenizer", "model", "added_tokens")}


def _wordpiece(backend: tokenizers.Tokenizer) -> WordPiece | None:
    """Returns Google's way to read text with the tokenizer's own settings; None if it has quite another way."""
    settings = _settings(backend)
    normalizer, model = settings["normalizer"] or {}, settings["model"]
    googles = normalizer.get("type") == "BertNormalizer" and normalizer["clean_text"]
    parted = (settings["pre_tokenizer"] or {}).get("type") == "BertPreTokenizer"
    if not googles or not parted or not all(token["special"] for token in settings["added_tokens"]):
        return None
    lowercase, strip_accents = normalizer["lowercase"], normalizer["strip_accents"]
    return WordPiece(
        backend.get_vocab(),
        WordPieceSettings(
            unknown=model["unk_token"],
            prefix=model["continuing_subword_prefix"],
            max_word_length=model["max_input_chars_per_word"],
            lowercase=lowercase,
            strip_accents=lowercase if strip_accents is None else strip_accents,
            split_chinese=normalizer["handle_chinese_chars"],
        ),
        id_dtype(backend.get_vocab_size()),
    )


def _backend(pieces: list[str], *, cased: bool) -> tokenizers.Tokenizer:
    """Source: google-research/bert, tokenization.py."""
    vocabulary = {piece: token_id for token_id, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=MAX_WORD_LENGTH)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary[CLS]), (SEP, vocabulary[SEP])],
    )
    backend.add_special_tokens(list(SPECIAL_PIECES))
    return backend


def _check_pieces(pieces: list[str], path: str | Path, *, cased: bool) -> None:
    missing = [piece for piece in SPECIAL_PIECES if piece not in pieces]
    if missing:
        raise UserError(f"{path} has no {' '.join(missing)}; a BERT vocabulary holds {' '.join(SPECIAL_PIECES)}")
    lines: dict[str, int] = {}
    for line, piece in enumerate(pieces, 1):
        if not piece:
            raise UserError(f"{path}:{line} is empty; each line needs a piece, the number of the line is its id")
        if piece in lines:
            raise UserError(f"{path}:{line}: the piece {piece!r} stands on line {lines[piece]} already; keep one")
        lines[piece] = line
        special = piece[0] + piece[-1] in ("[]", "<>")
        if not cased and not special and piece != piece.lower():
            raise UserError(
                f"{path}:{line}: the piece {piece!r} has upper-case letters, which lower-cased text never reaches;"
                " use --cased, or a lower-case vocabulary"
            )


def _alphabet(texts: list[str], backend: tokenizers.Tokenizer, most: int) -> list[str]:
    """Returns the characters that get an entry: all but the rarest, at most `most`, in the order of their code."""
    counts = np.zeros(0x110000, np.int64)
    for start in range(0, len(texts), 4096):
        codes = np.frombuffer("".join(texts[start : start + 4096]).encode("utf-32-le"), np.uint32)
        counts += np.bincount(codes, minlength=len(counts))
    normalized: dict[str, int] = {}
    for code in np.flatnonzero(counts):
        for character in "".join(backend.normalizer.normalize_str(chr(code)).split()):
            normalized[character] = normalized.get(character, 0) + int(counts[code])
    by_count = sorted(normalized, key=lambda character: (-normalized[character], character))
    rarest_first = np.cumsum([normalized[character] for character in reversed(by_count)])
    rare = int(np.searchsorted(rarest_first, RARE_SHARE * counts.sum(), side="right"))
    return sorted(by_count[: max(1, min(most, len(by_count) - rare))])


def _continues_words(character: str, backend: tokenizers.Tokenizer) -> bool:
    """Returns whether the character can stand inside a word; punctuation and Chinese characters are words."""
    return len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(f"a{character}"))) == 1

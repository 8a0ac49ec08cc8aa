from __future__ import annotations

import pytest

from bertjax.data.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of a few letters and their pieces, for files that have none of their own."""
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##a ##b ##c , 中 国 ".replace(" ", "\n"))
    return Tokenizer.from_vocab(path)

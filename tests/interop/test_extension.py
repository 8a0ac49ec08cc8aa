from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import train
from bertjax import pretrained
from bertjax.config import CheckpointConfig, Config, DataConfig, OptimizerConfig, TrainConfig
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.interop.extension import check_extends, extend
from bertjax.model.assembly import abstract_params
from tests.interop import folders


@pytest.fixture
def longer(tmp_path: Path) -> Path:
    path = tmp_path / "longer.txt"
    path.write_text("".join(f"{piece}\n" for piece in [*folders.TOKENIZER.pieces, "herons", "##waits", "日"]))
    return path


def test_new_entries_start_from_the_mean_of_their_pieces(tmp_path: Path, longer: Path) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors(), "BertForPreTraining")
    b, new, old = pretrained.read_blueprint(folder), Tokenizer.from_vocab(longer), folders.TOKENIZER
    params = pretrained.read_params(folder, b)
    larger = dataclasses.replace(b, config=dataclasses.replace(b.config, vocab_size=new.vocab_size))
    made = extend(params, abstract_params(larger), old, new)
    before_VD = np.asarray(params["encoder"]["embeddings"]["token"]["embedding"])
    after_VD = np.asarray(made["encoder"]["embeddings"]["token"]["embedding"])
    bias_V = np.asarray(made["masked_lm"]["bias"])
    np.testing.assert_array_equal(after_VD[: old.vocab_size], before_VD[: old.vocab_size])
    for piece, text in (("herons", "herons"), ("##waits", "waits"), ("日", "日")):
        ids = old.encode_batch([text])[0]
        np.testing.assert_allclose(after_VD[new.id_of(piece)], before_VD[ids].mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(bias_V[new.id_of(piece)], bias_V[ids].mean(), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, made["encoder"]["blocks"], params["encoder"]["blocks"])


def test_another_vocabulary_is_refused(longer: Path) -> None:
    new, old = Tokenizer.from_vocab(longer), folders.TOKENIZER
    check_extends(new, old, "folder")
    with pytest.raises(UserError, match="not prepared with the vocabulary of folder"):
        check_extends(old, new, "folder")


def test_pretraining_goes_on_from_a_folder_with_a_longer_vocabulary(
    tmp_path: Path, longer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors("cls.seq"), "BertForMaskedLM")
    text = "\n\n".join(f"The grey herons wait {'in the rain ' * (i % 5)}.\nThe {i} rivers rise." for i in range(60))
    (tmp_path / "text.txt").write_text(text)
    settings = PrepareConfig(str(tmp_path / "corpus"), vocab=str(longer), seq_len=14, validation_share=0.1)
    prepare(settings, [tmp_path / "text.txt"])
    c = Config(
        data=DataConfig(path=str(tmp_path / "corpus"), seq_len=14),
        optimizer=OptimizerConfig(peak_lr=1e-9, warmup_steps=None),
        train=TrainConfig(steps=2, batch_size=8, eval_rows=8, init_from=str(folder)),
        checkpoint=CheckpointConfig(keep=1),
    )
    train.run(c, tmp_path / "run")
    assert "has no next_sentence: random weights there" in capsys.readouterr().err
    b = pretrained.read_blueprint(tmp_path / "run")
    assert (b.config.width, b.config.vocab_size) == (24, max(70, folders.TOKENIZER.vocab_size + 3))
    moved, there = (
        pretrained.read_params(path, pretrained.read_blueprint(path))["encoder"] for path in (tmp_path / "run", folder)
    )
    assert isinstance(moved, dict)
    assert isinstance(there, dict)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), moved["blocks"], there["blocks"])

    wider = dataclasses.replace(c, model=dataclasses.replace(c.model, width=48))
    with pytest.raises(UserError, match=r"model\.width=48 is not what .* has; leave the group model out"):
        train.run(wider, tmp_path / "other")

    folder.rename(tmp_path / "elsewhere")  # a run that has begun has all that it needs
    train.run(c, tmp_path / "run")

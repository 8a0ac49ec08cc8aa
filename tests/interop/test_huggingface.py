from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import bertjax
from bertjax.config import Pooling
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.interop import bert
from bertjax.interop.classes import blueprint_for, largest_class
from bertjax.interop.huggingface import is_folder, read_blueprint, read_params, read_tokenizer
from bertjax.model.assembly import Blueprint, classifier_heads
from tests.interop.folders import ANSWERS, CLASSIFIER, LABELS, TOKENIZER, golden_tensors, write

HEADS = ("cls.",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "hf", golden_tensors(), "BertForPreTraining")


@pytest.mark.parametrize(
    ("architecture", "tensors", "task", "heads"),
    [
        ("BertForPreTraining", golden_tensors(), "pretraining", ("pooler", "masked_lm", "next_sentence")),
        (None, golden_tensors(), "pretraining", ("pooler", "masked_lm", "next_sentence")),
        ("BertForMaskedLM", golden_tensors("bert.pooler", "cls.seq"), "pretraining", ("masked_lm",)),
        ("BertForMaskedLM", golden_tensors("cls.seq"), "pretraining", ("pooler", "masked_lm")),
        ("BertForNextSentencePrediction", golden_tensors("cls.pred"), "pretraining", ("pooler", "next_sentence")),
        ("BertModel", golden_tensors("cls."), "pretraining", ("pooler",)),
        ("BertModel", golden_tensors("cls.", "bert.pooler"), "pretraining", ()),
        (
            "BertForSequenceClassification",
            golden_tensors("cls.") | CLASSIFIER,
            "classification",
            ("pooler", "classifier"),
        ),
        ("BertForTokenClassification", golden_tensors("cls.", "bert.pool") | CLASSIFIER, "tagging", ("classifier",)),
        ("BertForTokenClassification", golden_tensors("cls.") | CLASSIFIER, "tagging", ("pooler", "classifier")),
        ("BertForQuestionAnswering", golden_tensors("cls.", "bert.pool") | ANSWERS, "answers", ("classifier",)),
    ],
)
def test_every_flavour_says_what_it_has(
    tmp_path: Path, architecture: str | None, tensors: dict[str, np.ndarray], task: str, heads: tuple[str, ...]
) -> None:
    labels = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}} if "classifier.bias" in tensors else {}
    folder = write(tmp_path / "hf", tensors, architecture, **labels)
    b = read_blueprint(folder)
    assert (b.task, b.heads) == (task, heads)
    assert b.labels == {"answers": ("start", "end"), "pretraining": ()}.get(task, ("no", "yes", "maybe"))
    params = read_params(folder, b)
    assert set(params) == {"encoder", *heads}
    np.testing.assert_array_equal(
        params["encoder"]["embeddings"]["segment"]["embedding"],
        tensors["bert.embeddings.token_type_embeddings.weight"],
    )


def same_params(folder: Path, other: Path) -> None:
    one, two = (jax.device_get(read_params(path, read_blueprint(path))) for path in (folder, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_old_names_missing_prefix_and_position_numbers_are_the_same_model(tmp_path: Path) -> None:
    tensors = golden_tensors("cls.")
    folder = write(tmp_path / "hf", tensors, "BertModel")
    bare = {name.removeprefix("bert."): x for name, x in tensors.items()}
    same_params(folder, write(tmp_path / "bare", bare, "BertModel"))
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): x for name, x in tensors.items()
    }
    numbers = {"bert.embeddings.position_ids": np.arange(14)[None]}
    same_params(folder, write(tmp_path / "old", old | numbers, "BertModel"))


def test_shards_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    sharded = write(tmp_path / "sharded", golden_tensors(), "BertForPreTraining")
    (sharded / "model.safetensors").unlink()
    names = sorted(golden_tensors())
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, held in shards.items():
        save_file({name: golden_tensors()[name] for name in held}, sharded / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    same_params(folder, sharded)
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"names .*00002-of-00002.* which are not there"):
        read_blueprint(sharded)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path: Path, dtype: Any) -> None:
    tensors = {name: x.astype(dtype) for name, x in golden_tensors().items()}
    whole = {name: x.astype(np.float32) for name, x in tensors.items()}
    same_params(write(tmp_path / "half", tensors, None), write(tmp_path / "whole", whole, None))


def test_code_in_the_folder_is_ignored(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    (folder / "evil.py").write_text("raise SystemExit('run')")
    assert read_blueprint(folder).heads


def test_a_vocabulary_file_is_enough(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert read_tokenizer(folder, 70).fingerprint == TOKENIZER.fingerprint


def test_a_cased_vocabulary_needs_a_word_about_it(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nRiver\n")
    with pytest.raises(UserError, match='"do_lower_case": false'):
        read_tokenizer(folder, 70)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert read_tokenizer(folder, 70).cased


def test_a_vocabulary_files_settings_are_heeded_or_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "für", "fur", "東", "京", "東##"]
    (folder / "vocab.txt").write_text("\n".join([*pieces, "##京"]) + "\n")

    def ids(**settings: Any) -> list[int]:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return read_tokenizer(folder, 70).encode_batch(["Für 東京"])[0]

    assert ids() == ids(unk_token={"content": "[UNK]"}, never_split=None) == [6, 7, 8]
    assert ids(strip_accents=False) == [5, 7, 8]
    assert ids(tokenize_chinese_chars=False) == [6, 7, 10]
    for settings in ({"unk_token": "<unk>"}, {"never_split": ["x"]}, {"do_basic_tokenize": False}):
        with pytest.raises(UserError, match=f"says {next(iter(settings))}=.* put the model's tokenizer.json there"):
            ids(**settings)


def test_a_pooler_left_over_in_a_roberta_classifier_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = {k.replace("bert.", "roberta.", 1): v for k, v in golden_tensors("cls.", "bert.pooler").items()}
    pooler = {k.removeprefix("bert."): v for k, v in golden_tensors("cls.", "bert.emb", "bert.enc").items()}
    head = {k.replace("pooler", "classifier"): v for k, v in pooler.items()}
    head |= {k.replace("classifier", "classifier.out_proj"): v for k, v in CLASSIFIER.items()}
    how: dict[str, Any] = {"model_type": "roberta", "pad_token_id": 1} | LABELS
    plain, left = (
        write(tmp_path / name, encoder | head | more, "RobertaForSequenceClassification", **how)
        for name, more in (("plain", {}), ("left", {f"roberta.{k}": v + 1 for k, v in pooler.items()}))
    )
    same_params(plain, left)
    assert (
        "roberta.pooler.dense.weight is left out, which a classifier of texts does not read" in capsys.readouterr().err
    )


def test_cutting_and_padding_that_the_tokenizer_asks_for_are_ignored(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    settings["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    text = ["The river rises after the rain."]
    assert read_tokenizer(folder, 70).encode_batch(text) == TOKENIZER.encode_batch(text)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def lie_about_the_size(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def leave_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_tokenizer(folder: Path) -> None:
    (folder / "more.txt").write_text("".join(f"{piece}\n" for piece in [*TOKENIZER.pieces, *map(str, range(70))]))
    Tokenizer.from_vocab(folder / "more.txt").save(folder)


def quantize(folder: Path) -> None:
    """Says of a tensor that it is of four times as many numbers of eight bits."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["bert.pooler.dense.bias"] |= {"dtype": "F8_E4M3", "shape": [96]}
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + data[8 + size :])


def index(weight_map: Any) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors is damaged or cut off"),
        (lie_about_the_size, "model.safetensors is damaged or cut off"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights: neither model.safetensors nor"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is damaged or cut off"),
        (quantize, "bert.pooler.dense.bias is F8_E4M3; save the model as one of F64, F32, F16, BF16"),
        (index(["model.safetensors"]), "index.json has no weight_map of names and files"),
        (index({"bert.pooler.dense.bias": 1}), "index.json has no weight_map of names and files"),
        (index({"bert.pooler.dense.bias": "../model.safetensors"}), "names no files, which are not there"),
        (leave_a_pickle, "as pickles only (pytorch_model.bin), which can run code; convert them"),
        (other_tokenizer, "entries, the embedding 70 rows: they are not of the same model"),
        (lambda folder: [(folder / n).unlink() for n in ("tokenizer.json", "vocab.txt")], "neither tokenizer.json nor"),
        (config(model_type="t5"), "model_type='t5'; only ['bert'"),
        (config(architectures=["BertLMHeadModel"]), "architectures=['BertLMHeadModel']; only BertFor"),
        (config(hidden_act="swish"), "hidden_act='swish'; use one of"),
        (config(vocab_size=71), "bert.embeddings.word_embeddings.weight is [70, 24], expected [71, 24]"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    ],
)
def test_what_cannot_be_read_without_a_doubt_is_refused(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=re.escape(message)):
        bertjax.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "regression"}, "problem_type='regression' of 2 classes"),
        ({"problem_type": "ranking"}, "problem_type='ranking' of 2 classes; only single_label_classification, multi_"),
        ({"id2label": {"0": "a", "2": "b", "1": "a"}}, "use a different name"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.weight is [3, 24], expected [2, 24]"),
        ({"architectures": None}, "of which class?"),
    ],
)
def test_classes_that_are_not_clear_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "hf", golden_tensors("cls.") | CLASSIFIER, "BertForSequenceClassification", **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        bertjax.load(folder)


@pytest.mark.parametrize("pooling", ["mean", "weighted", "layers"])
def test_a_classifier_that_hugging_face_has_no_class_for_is_exported_as_its_encoder_only(
    tmp_path: Path, pooling: Pooling
) -> None:
    c = read_blueprint(write(tmp_path / "hf", golden_tensors(), "BertForPreTraining")).config
    b = Blueprint(c, classifier_heads(c, "classification", pooling), "classification", ("a", "b"), pooling)
    with pytest.raises(
        UserError, match=r"no class of Hugging Face's has the heads .*; --architecture BertModel leaves"
    ):
        largest_class(bert, b)
    with pytest.raises(UserError, match=r"BertForSequenceClassification has the heads pooler, classifier, the model"):
        blueprint_for(bert, b, "BertForSequenceClassification")
    assert blueprint_for(bert, b, "BertModel").heads == ()


def test_a_run_is_no_folder_of_hugging_faces(finished: Path, tmp_path: Path) -> None:
    assert not is_folder(finished)
    assert not is_folder(tmp_path)

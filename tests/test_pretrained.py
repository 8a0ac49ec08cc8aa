"""A folder of Hugging Face's and the run's folder that it is imported into are the same model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import bertjax
from bertjax import pretrained
from bertjax.errors import UserError
from bertjax.training.metrics import read_metrics
from tests.interop import folders


@pytest.mark.parametrize(
    ("architecture", "tensors", "labels"),
    [
        ("BertForPreTraining", folders.golden_tensors(), {}),
        ("BertModel", folders.golden_tensors("cls."), {}),
        (
            "BertForSequenceClassification",
            folders.golden_tensors("cls.") | folders.CLASSIFIER,
            folders.LABELS,
        ),
        ("BertForQuestionAnswering", folders.golden_tensors("cls.", "bert.pooler") | folders.ANSWERS, {}),
    ],
)
def test_an_imported_folder_is_the_same_model(
    tmp_path: Path, architecture: str, tensors: dict[str, np.ndarray], labels: dict[str, Any]
) -> None:
    folder = folders.write(tmp_path / "hf", tensors, architecture, **labels)
    facts = pretrained.import_folder(folder, tmp_path / "ours")
    assert facts["vocabulary"] == folders.TOKENIZER.vocab_size
    assert pretrained.read_blueprint(tmp_path / "ours") == pretrained.read_blueprint(folder)
    theirs, ours = bertjax.load(folder), bertjax.load(tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours.params), jax.device_get(theirs.params))
    np.testing.assert_array_equal(ours.embed(folders.TEXTS), theirs.embed(folders.TEXTS))
    if labels:
        assert ours.classify("rain") == theirs.classify("rain")
        assert set(ours.classify("rain")[0]["probabilities"]) == {"no", "yes", "maybe"}


def test_what_a_flavour_lacks_is_named(tmp_path: Path) -> None:
    model = bertjax.load(folders.write(tmp_path / "hf", folders.golden_tensors("cls."), "BertModel"))
    with pytest.raises(UserError, match="no masked-LM head"):
        model.fill_mask("[MASK]")
    with pytest.raises(UserError, match="no classes"):
        model.classify("rain")


def test_a_failed_import_leaves_nothing(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors("bert.encoder.layer.1.output"), "BertForPreTraining")
    with pytest.raises(UserError, match=r"layer\.1\.output\.dense\.weight is missing"):
        pretrained.import_folder(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    with pytest.raises(UserError, match=r"no Hugging Face folder|does not exist"):
        pretrained.import_folder(tmp_path, tmp_path / "ours")


@pytest.mark.parametrize(
    ("architecture", "tensors", "config"),
    [
        ("BertForPreTraining", folders.golden_tensors(), {"hidden_act": "gelu_pytorch_tanh"}),
        ("BertForMaskedLM", folders.golden_tensors("cls.seq", "bert.pooler"), {}),
        ("BertForNextSentencePrediction", folders.golden_tensors("cls.pred"), {}),
        ("BertModel", folders.golden_tensors("cls."), {"layer_norm_eps": 1e-5}),
        ("BertModel", folders.golden_tensors("cls.", "bert.pooler"), {}),
        ("BertForSequenceClassification", folders.golden_tensors("cls.") | folders.CLASSIFIER, folders.LABELS),
        ("BertForTokenClassification", folders.golden_tensors("cls.", "bert.p") | folders.CLASSIFIER, folders.LABELS),
        ("BertForQuestionAnswering", folders.golden_tensors("cls.", "bert.pooler") | folders.ANSWERS, {}),
    ],
)
def test_what_was_imported_is_exported_bit_for_bit(
    tmp_path: Path, architecture: str, tensors: dict[str, np.ndarray], config: dict[str, Any]
) -> None:
    bare = {k.removeprefix("bert.") if architecture == "BertModel" else k: x for k, x in tensors.items()}
    folder = folders.write(tmp_path / "hf", bare, architecture, **config)
    pretrained.import_folder(folder, tmp_path / "ours")
    made = pretrained.export_folder(tmp_path / "ours", tmp_path / "back")
    assert made["architecture"] == architecture
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == bare.keys()
    for name, tensor in bare.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
    assert pretrained.read_blueprint(tmp_path / "back") == pretrained.read_blueprint(folder)
    assert pretrained.read_tokenizer(tmp_path / "back", pretrained.read_blueprint(folder)).fingerprint == (
        folders.TOKENIZER.fingerprint
    )


def test_an_export_says_where_the_model_comes_from(finished: Path, tmp_path: Path) -> None:
    made = pretrained.export_folder(finished, tmp_path / "hf")
    assert made == {"architecture": "BertForPreTraining", "step": 24, "labels": []}
    card = (tmp_path / "hf" / "README.md").read_text()
    for part in (
        "import AutoTokenizer, BertForPreTraining\n",
        "stories.txt",
        "Weights of step 24 on 8 x cpu",
        "mlm_accuracy",
        '"peak_lr": 0.003',
    ):
        assert part in card
    text = "the old [MASK] follows the bridge."
    assert bertjax.load(tmp_path / "hf").fill_mask(text) == bertjax.load(finished).fill_mask(text)


def test_a_model_card_has_the_figures_of_its_step_or_says_that_there_are_none(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    lines = read_metrics(run)
    (step_24,) = (line for line in lines if line["step"] == 24 and "eval_loss" in line)
    later = step_24 | {"step": 25, "eval_mlm_accuracy": 0.123456}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, later]))
    pretrained.export_folder(run, tmp_path / "evaluated")
    card = (tmp_path / "evaluated" / "README.md").read_text()
    assert f"Of step 24.\n\n| figure | value |\n|---|---|\n| loss | {step_24['eval_loss']:.6g} |\n" in card
    assert "0.123456" not in card
    (run / "metrics.jsonl").write_text(json.dumps({"step": 24, "loss": 1.0}) + "\n")
    pretrained.export_folder(run, tmp_path / "not evaluated")
    assert "Step 24 was not evaluated." in (tmp_path / "not evaluated" / "README.md").read_text()


def test_an_export_whose_card_cannot_be_made_writes_nothing(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "metrics.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:1 is not JSON"):
        pretrained.export_folder(run, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_an_export_is_for_a_class_that_the_model_fits(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors(), "BertForPreTraining")
    pretrained.export_folder(folder, tmp_path / "masked", "BertForMaskedLM")
    assert pretrained.read_blueprint(tmp_path / "masked").heads == ("masked_lm",)
    for architecture, message in [
        ("BertForQuestionAnswering", "BertForQuestionAnswering has the heads classifier, the model, for pretraining"),
        ("BertForAll", "architecture 'BertForAll' is unknown; use one of BertForPreTraining"),
    ]:
        with pytest.raises(UserError, match=message):
            pretrained.export_folder(folder, tmp_path / "other", architecture)
    with pytest.raises(UserError, match="is there already"):
        pretrained.export_folder(folder, tmp_path / "masked")
    assert not (tmp_path / "other").exists()

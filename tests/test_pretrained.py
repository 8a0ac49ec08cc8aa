"""A folder of Hugging Face's and the run's folder that it is imported into are the same model."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

import bertjax
from bertjax import pretrained
from bertjax.errors import UserError
from tests.interop import folders


@pytest.mark.parametrize(
    ("architecture", "tensors", "labels"),
    [
        ("BertForPreTraining", folders.golden_tensors(), {}),
        ("BertModel", folders.golden_tensors("cls."), {}),
        (
            "BertForSequenceClassification",
            folders.golden_tensors("cls.") | folders.CLASSIFIER,
            {"id2label": {"0": "no", "1": "yes", "2": "maybe"}},
        ),
        ("BertForQuestionAnswering", folders.golden_tensors("cls.", "bert.pooler") | folders.ANSWERS, {}),
    ],
)
def test_an_imported_folder_is_the_same_model(
    tmp_path: Path, architecture: str, tensors: dict[str, np.ndarray], labels: dict[str, dict[str, str]]
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

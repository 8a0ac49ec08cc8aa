from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax import pretrained
from bertjax.errors import UserError
from bertjax.interop.tensor_bundle import read_entries, read_tensor
from tests.golden import bert
from tests.interop import bundles, folders

GOLDEN = bert.PATH.parent / "google"  # saved by TensorFlow


def write(directory: Path, **config: Any) -> Path:
    """Writes the rest of a folder of Google's; returns it."""
    directory.mkdir(exist_ok=True)
    (directory / "bert_config.json").write_text(json.dumps({"hidden_act": "gelu"} | bert.CONFIG | config))
    folders.TOKENIZER.save(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN, tmp_path / "google")
    return write(tmp_path / "google")


def tensors(*without: str) -> dict[str, np.ndarray]:
    """Returns the golden tensors as Google has them, but those that begin with one of `without`."""
    index = GOLDEN / "bert_model.ckpt.index"
    entries, shards = read_entries(index)
    named = {name: read_tensor(index, name, entry, shards) for name, entry in entries.items()}
    return {name: x for name, x in named.items() if not name.startswith(without or "-")}


def test_a_checkpoint_of_tensorflows_is_the_model_that_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    same = folders.write(tmp_path / "hf", folders.golden_tensors(), "BertForPreTraining", hidden_act="gelu_new")
    b = pretrained.read_blueprint(folder)
    assert b == pretrained.read_blueprint(same)
    assert b.config.gelu == "tanh"
    found, wanted = (jax.device_get(pretrained.read_params(path, b)) for path in (folder, same))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert pretrained.read_tokenizer(folder, b).fingerprint == folders.TOKENIZER.fingerprint


def test_it_is_imported_exported_and_asked(folder: Path, tmp_path: Path) -> None:
    assert pretrained.import_folder(folder, tmp_path / "ours")["task"] == "pretraining"
    assert pretrained.export_folder(folder, tmp_path / "hf")["architecture"] == "BertForPreTraining"
    found = [bertjax.load(path).embed(["The river rises."]) for path in (folder, tmp_path / "ours", tmp_path / "hf")]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    with pytest.raises(UserError, match=r"step=3: .* has one set of weights"):
        bertjax.load(folder, step=3)


@pytest.mark.parametrize(
    ("more", "task", "labels"),
    [
        ({"output_weights": (3, 24), "output_bias": (3,)}, "classification", ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"cls/squad/output_weights": (2, 24), "cls/squad/output_bias": (2,)}, "answers", ("start", "end")),
    ],
)
def test_fine_tuned_models_are_told_by_their_tensors(
    tmp_path: Path, more: dict[str, tuple[int, ...]], task: str, labels: tuple[str, ...]
) -> None:
    folder = write(tmp_path / "google")
    heads = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in more.items()}
    bundles.write(folder / "model.ckpt-7", tensors("cls/") | heads)
    b = pretrained.read_blueprint(folder)
    assert (b.task, b.labels, b.heads) == (task, labels, ("pooler", "classifier"))
    kernel, bias = (pretrained.read_params(folder, b)["classifier"][name] for name in ("kernel", "bias"))
    np.testing.assert_array_equal(kernel, heads[next(iter(more))].T)
    np.testing.assert_array_equal(bias, np.arange(len(labels)))


def changed(name: str, at: int) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[at] ^= 1
        (folder / name).write_bytes(data)

    return change


def cut(name: str, at: int) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:at])


def tensors_written(**options: Any) -> Callable[[Path], Any]:
    held = {**tensors("bert/pooler/dense/bias"), "more/kernel": np.ones((2, 3), np.float32)}
    return lambda folder: bundles.write(folder / "bert_model.ckpt", held, **options)


INDEX, DATA = "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        *((changed(INDEX, at), "is damaged or no checkpoint of TensorFlow's") for at in (9, 700, -60, -1)),
        *((cut(INDEX, at), "is damaged or no checkpoint of TensorFlow's") for at in (0, 40, 2000)),
        (changed(DATA, 5000), "is damaged or cut off at"),
        (cut(DATA, 9000), "is damaged or cut off at"),
        (lambda folder: (folder / DATA).unlink(), "is not there, which bert_model.ckpt.index names"),
        (lambda folder: (folder / INDEX).unlink(), "has no checkpoints"),
        (lambda folder: (folder / INDEX).rename(folder / "a.index").with_name("b.index").touch(), "has 2 checkpoints"),
        (tensors_written(), "bert/pooler/dense/bias is missing; more/kernel has no place in the model"),
        (tensors_written(compression=b"\1"), "is compressed"),
        (tensors_written(sliced=True), "it holds tensors in slices"),
        (lambda folder: write(folder, hidden_act="relu"), "hidden_act='relu'; use one of"),
        (lambda folder: write(folder, vocab_size=71), "word_embeddings is [70, 24], expected [71, 24]"),
        (lambda folder: (folder / "vocab.txt").unlink(), "neither tokenizer.json nor vocab.txt"),
        (
            lambda folder: bundles.write(folder / "bert_model.ckpt", tensors() | {"text": np.array([1], np.uint64)}),
            "text is of TensorFlow's type 7, which is not known here",
        ),
    ],
)
def test_what_cannot_be_read_without_a_doubt_is_refused(
    folder: Path, damage: Callable[[Path], Any], message: str
) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        bertjax.load(folder)
    assert message in str(caught.value)


def test_the_extra_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(UserError, match="need the extra `google`"):
        bertjax.load(folder)

"""Google's folders of BERT: bert_config.json, bert_model.ckpt.*, vocab.txt, as google-research/bert has them.

A checkpoint has the tensors of Hugging Face's BERT under other names, kernels the other way round.
"""

from __future__ import annotations

import re
from pathlib import Path

from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.interop import bert, huggingface
from bertjax.interop.places import params_from_tensors
from bertjax.interop.tensor_bundle import Entry, read_entries, read_tensor
from bertjax.model.assembly import Blueprint, Task, abstract_params
from bertjax.model.params import Params

CONFIG, CHECKPOINT = "bert_config.json", "bert_model.ckpt.index"

TASKS: dict[str, Task] = {"output_weights": "classification", "cls/squad/output_weights": "answers"}
"""What a fine-tuned model is for, by the tensor that only such a one has: of run_classifier.py, of run_squad.py."""

OF_THE_TRAINING = re.compile(r"global_step|.*/adam_[mv]")
"""Tensors that a checkpoint holds beside the model's."""


def is_folder(path: str | Path) -> bool:
    """Returns whether this is a folder of Google's."""
    return (Path(path) / CONFIG).is_file()


def read_blueprint(path: str | Path) -> Blueprint:
    """Returns what the folder holds, from its config and the names of its tensors.

    Google's `gelu` is the tanh approximation. Classes have no names: they are LABEL_0, LABEL_1 ...

    Raises: UserError if there is no checkpoint, or it is of a model that ours is not.
    """
    values = huggingface.read_json(Path(path) / CONFIG)
    activation = {"gelu": "gelu_new"}.get(values.get("hidden_act", "gelu"), values.get("hidden_act"))
    config = bert.config_from_huggingface({**values, "hidden_act": activation})
    _, entries, _ = _checkpoint(path)
    found = [name for name in TASKS if name in entries]
    task: Task = TASKS[found[0]] if found else "pretraining"
    heads = tuple(
        head
        for head, name in (
            ("pooler", "bert/pooler/dense/kernel"),
            ("masked_lm", "cls/predictions/output_bias"),
            ("next_sentence", "cls/seq_relationship/output_bias"),
            ("classifier", (found or ["none"])[0]),
        )
        if name in entries
    )
    labels = {"classification": _numbered(entries), "answers": ("start", "end")}.get(task, ())
    return Blueprint(config, heads, task, labels)


def read_params(path: str | Path, b: Blueprint) -> Params:
    """Returns the weights, float32, on the mesh that is set.

    Raises: UserError unless every tensor of the model has one place and every place one tensor, undamaged.
    """
    index, entries, shards = _checkpoint(path)
    tensors = {}
    for name, entry in entries.items():
        tensor = read_tensor(index, name, entry, shards)
        tensors[name] = tensor.T if name.endswith("/kernel") else tensor
    places = {_theirs(name): place for name, place in bert.places(b).items()}
    try:
        return params_from_tensors(tensors, places, abstract_params(b))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_tokenizer(path: str | Path, vocab_size: int) -> Tokenizer:
    """Returns the tokenizer of vocab.txt. Raises: UserError if there is none, or it does not fit the embedding."""
    return huggingface.read_tokenizer(path, vocab_size)


def _checkpoint(path: str | Path) -> tuple[Path, dict[str, Entry], int]:
    """Returns the index, the model's tensors in it, and the number of the data files."""
    found = sorted(Path(path).glob("*.index"))
    named = [index for index in found if index.name == CHECKPOINT] or found
    if len(named) != 1:
        raise UserError(
            f"{path} has {len(named) or 'no'} checkpoints, named {[index.name for index in named]}; put one there,"
            f" as {CHECKPOINT} and bert_model.ckpt.data-00000-of-00001"
        )
    entries, shards = read_entries(named[0])
    return named[0], {name: e for name, e in entries.items() if not OF_THE_TRAINING.fullmatch(name)}, shards


def _numbered(entries: dict[str, Entry]) -> tuple[str, ...]:
    shape = entries["output_weights"].shape if "output_weights" in entries else ()
    return tuple(f"LABEL_{i}" for i in range(shape[0] if shape else 0))


def _theirs(name: str) -> str:
    """Returns Google's name of a tensor of Hugging Face's."""
    head = {
        "cls.predictions.bias": "cls/predictions/output_bias",
        "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
        "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
        "classifier.weight": "output_weights",
        "classifier.bias": "output_bias",
        "qa_outputs.weight": "cls/squad/output_weights",
        "qa_outputs.bias": "cls/squad/output_bias",
    }.get(name)
    if head:
        return head
    name = re.sub(r"layer\.(\d+)", r"layer_\1", name).replace("LayerNorm.weight", "LayerNorm.gamma")
    name = name.replace("LayerNorm.bias", "LayerNorm.beta")
    name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
    return re.sub(r"\.weight$", ".kernel", name).replace(".", "/")

"""Hugging Face's folders: config.json, model.safetensors, tokenizer; read strictly, written for their classes.

Code that a folder brings (`auto_map`) is never run, and pickles are never opened.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from bertjax import hosts
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.interop import bert, modernbert, roberta
from bertjax.interop.classes import blueprint_for, described, heads_of, labels_of, largest_class, pooling_of, task_of
from bertjax.interop.places import Unread, params_from_tensors, tensors_from_params
from bertjax.model.assembly import OF_TEXTS, Blueprint, abstract_params
from bertjax.model.params import Params

FAMILIES: dict[str, ModuleType] = {"bert": bert, "modernbert": modernbert, "roberta": roberta}
"""By `model_type`. Each module has CLASSES, HEADS, UNREAD, TIED, `config_from_huggingface`, `places`, and the way back.
"""

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32")
"""Types of tensors that NumPy has; those of eight bits and less are of quantized models, with scales beside them."""

THRESHOLD = "null_score_diff_threshold"
"""In config.json, of ours: above this doubt a question has no answer. So transformers' run_qa.py names it."""

TOKENIZED = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "never_split": [],
}
"""What tokenizer_config.json says of a BERT vocabulary, where it says it."""

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def is_folder(path: str | Path) -> bool:
    """Returns whether this is a folder of Hugging Face's: one whose config.json names a model_type."""
    return (Path(path) / CONFIG).is_file() and "model_type" in read_json(Path(path) / CONFIG)


def read_blueprint(path: str | Path) -> Blueprint:
    """Returns what the folder holds, from its config and the names of its tensors.

    Raises: UserError if there are no weights, or if it is of a model that ours is not.
    """
    values = read_json(Path(path) / CONFIG)
    family = _family(values)
    heads = heads_of(family, {family.renamed(name) for file in _files(path) for name in _names(file)})
    task = task_of(family, values, heads)
    config = family.config_from_huggingface(values)
    labels = labels_of(values, task) if "classifier" in heads else ()
    return Blueprint(config, heads, task, labels, pooling_of(values))


def read_params(path: str | Path, b: Blueprint) -> Params:
    """Returns the weights, float32, on the mesh that is set.

    Raises: UserError unless every tensor of the folder has one place in the model and every place one tensor.
    """
    family = _family(read_json(Path(path) / CONFIG))
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for file in _files(path):
        for name, read in _tensors(file):
            new = family.renamed(name)
            if new in readers:
                raise UserError(f"{file} holds {name}, which is there already; a tensor can be in one place only")
            if new.endswith("embeddings.position_ids") and _are_numbers_from_0(read()):
                continue
            if b.task in OF_TEXTS and new.startswith(family.UNREAD):
                hosts.say(f"{file}: {name} is left out, which a classifier of texts does not read")
                continue
            readers[new] = read
    try:
        return params_from_tensors(Unread(readers), family.places(b), abstract_params(b), family.TIED)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_tokenizer(path: str | Path, c_vocab_size: int) -> Tokenizer:
    """Returns the tokenizer of the folder. Raises: UserError if there is none, or it does not fit the embedding."""
    path = Path(path)
    tokenizer = Tokenizer.load(path) if (path / "tokenizer.json").is_file() else _from_vocab(path)
    if tokenizer.vocab_size > c_vocab_size:
        raise UserError(
            f"the tokenizer of {path} has {tokenizer.vocab_size} entries, the embedding {c_vocab_size} rows: they are"
            " not of the same model; put the model's own tokenizer files there"
        )
    return tokenizer


def largest_class_of(b: Blueprint) -> str:
    """Returns the class that has all of the model's heads. Raises: UserError if there is none."""
    return largest_class(_family_of(b), b)


def read_threshold(path: str | Path) -> float | None:
    """Returns the doubt above which a question has no answer, if the folder says it."""
    threshold = read_json(Path(path) / CONFIG).get(THRESHOLD)
    return None if threshold is None else float(threshold)


def write_folder(
    path: str | Path,
    b: Blueprint,
    params: Params,
    tokenizer: Tokenizer,
    architecture: str | None = None,
    threshold: float | None = None,
) -> str:
    """Writes config.json, model.safetensors and the tokenizer's files; returns the class they are for.

    `architecture` names another class than the one that has all the heads, and leaves those it lacks out. Above the
    doubt `threshold` a question has no answer.

    Raises: UserError if the folder is not empty, or the model lacks a head that the class has.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is there already; name a new folder, or empty it")
    family = _family_of(b)
    name = architecture or largest_class_of(b)
    b = blueprint_for(family, b, name)
    tensors = tensors_from_params(params, family.places(b))
    config = {"architectures": [name], "pad_token_id": tokenizer.pad_id}
    config |= family.huggingface_from_config(b.config) | described(b)
    config |= {} if threshold is None else {THRESHOLD: threshold}
    tokenizer.save(path)
    _add(path / "tokenizer_config.json", {"model_max_length": b.config.max_positions})
    prefix = family.BODY if name == family.BARE else ""
    save_file({key.removeprefix(prefix): x for key, x in tensors.items()}, path / WEIGHTS, {"format": "pt"})
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return name


def _add(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(read_json(path) | values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object that a file holds. Raises: UserError if it is not there, or none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist; name a folder with {CONFIG} and {WEIGHTS}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); get the folder again") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; get the folder again")
    return values


def _family(values: Mapping[str, Any]) -> ModuleType:
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"the Hugging Face config says model_type={kind!r}; only {sorted(FAMILIES)} can be imported")
    return FAMILIES[kind]


def _family_of(b: Blueprint) -> ModuleType:
    return next(family for family in FAMILIES.values() if family.describes(b.config))


def _files(path: str | Path) -> list[Path]:
    """Returns the files of the weights. Raises: UserError, with the remedy, if there are none or one is missing."""
    path = Path(path)
    if (path / INDEX).is_file():
        shards = read_json(path / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{path / INDEX} has no weight_map of names and files; get the folder again")
        files = [path / name for name in sorted(set(shards.values())) if Path(name).name == name]
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            raise UserError(f"{path / INDEX} names {missing or 'no files'}, which are not there; get the folder again")
        return files
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
    if pickles:
        raise UserError(
            f"{path} holds its weights as pickles only ({', '.join(pickles)}), which can run code; convert them where"
            f" you trust them: AutoModelForPreTraining.from_pretrained({str(path)!r}).save_pretrained(NEW_FOLDER)"
        )
    raise UserError(f"{path} has no weights: neither {WEIGHTS} nor {INDEX}; get the folder again")


def _names(file: Path) -> list[str]:
    with _opened(file) as tensors:
        return list(tensors.keys())


def _tensors(file: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yields the name of each tensor of the file, and what reads it."""
    tensors = _opened(file)
    for name in tensors.keys():  # noqa: SIM118 - it is no mapping
        dtype = tensors.get_slice(name).get_dtype()
        if dtype not in DTYPES:
            raise UserError(f"{file}: {name} is {dtype}; save the model as one of {', '.join(DTYPES)}")
        yield name, functools.partial(tensors.get_tensor, name)


def _opened(file: Path) -> Any:
    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut off ({error}); get it again") from error


def _are_numbers_from_0(tensor: np.ndarray) -> bool:
    """Returns whether it is 0, 1, 2 ..., the positions, which old files hold beside the weights."""
    return np.array_equal(tensor.ravel(), np.arange(tensor.size))


def _from_vocab(path: Path) -> Tokenizer:
    if not (path / "vocab.txt").is_file():
        raise UserError(f"{path} has neither tokenizer.json nor vocab.txt; put the model's tokenizer files there")
    config = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    cased = not config.get("do_lower_case", True)
    for name, ours in TOKENIZED.items():
        said = config.get(name)
        if said and (said["content"] if isinstance(said, dict) else said) != ours:
            raise UserError(
                f"{path / 'tokenizer_config.json'} says {name}={said!r}, but of a vocab.txt only {ours!r} can be read;"
                " put the model's tokenizer.json there"
            )
    if config.get("do_basic_tokenize") is False:
        raise UserError(
            f"{path / 'tokenizer_config.json'} says do_basic_tokenize=False, which cannot be read; put the model's"
            " tokenizer.json there"
        )
    how = {"strip_accents": config.get("strip_accents"), "split_chinese": config.get("tokenize_chinese_chars", True)}
    try:
        return Tokenizer.from_vocab(path / "vocab.txt", cased=cased, **how)
    except UserError as error:
        if cased:
            raise
        raise UserError(
            f'{error}. For a cased model write {{"do_lower_case": false}} into {path / "tokenizer_config.json"}'
        ) from error

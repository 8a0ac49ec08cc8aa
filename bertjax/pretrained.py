"""What there is to start from: the folder of a run, of Hugging Face's or of Google's, read as the same three things."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import runs, storage
from bertjax.config import CheckpointConfig, Config, FinetuneConfig, MeshConfig, ModelConfig, TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.interop import google, huggingface
from bertjax.model.assembly import PRETRAINING_HEADS, Blueprint, abstract_params
from bertjax.model.params import Params
from bertjax.sharding import make_mesh


def others_format(path: str | Path) -> ModuleType | None:
    """Returns the module that reads the folder, if it is one of Hugging Face's or of Google's."""
    return next((module for module in (huggingface, google) if module.is_folder(path)), None)


def read_blueprint(path: str | Path) -> Blueprint:
    """Returns what the folder holds. Raises: UserError if it is neither a run's nor one that others made."""
    if others := others_format(path):
        blueprint: Blueprint = others.read_blueprint(path)
        return blueprint
    record = runs.read_record(path)
    facts = record["facts"]
    if "model" not in facts:
        return Blueprint(runs.read_config(path, Config).model, tuple(facts.get("heads", PRETRAINING_HEADS)))
    c = runs.config_from_dict(ModelConfig, facts["model"], str(Path(path) / "config.json"))
    pooling = facts.get("pooling") or record["config"]["train"]["pooling"]  # of an import, of a fine-tuning
    return Blueprint(c, tuple(facts["heads"]), facts["task"], tuple(facts["labels"]), pooling)


def read_tokenizer(path: str | Path, b: Blueprint) -> Tokenizer:
    """Returns the folder's tokenizer. Raises: UserError if it does not fit the embedding, or is not the run's own."""
    if others := others_format(path):
        tokenizer: Tokenizer = others.read_tokenizer(path, b.config.vocab_size or 0)
        return tokenizer
    return _fitting(Tokenizer.load(Path(path) / "tokenizer"), path, b)


def _fitting(tokenizer: Tokenizer, path: str | Path, b: Blueprint) -> Tokenizer:
    rows = b.config.vocab_size
    if rows is not None and tokenizer.vocab_size > rows:
        raise UserError(
            f"{path}/tokenizer has {tokenizer.vocab_size} entries, the model {rows}: they are not of the same run; put"
            " its own tokenizer there"
        )
    runs.check_tokenizer(path)
    return tokenizer


def chosen_step(path: str | Path, step: int | None = None) -> int | None:
    """Returns the step of the checkpoint to read: of a pretraining the newest, of a fine-tuning the best.

    `step` names another. A folder that others made has none, and gives None.

    Raises: UserError if a step is named for such a folder, or there is no checkpoint.
    """
    if others_format(path):
        if step is not None:
            raise UserError(f"step={step}: {path} is no run's folder and has one set of weights; leave it out")
        return None
    if step is not None:
        return step
    from bertjax.training.checkpoints import best_step, newest_step  # imports Orbax, which takes a while

    return best_step(path, runs.read_facts(path)["metric"]) if _is_tuned(path) else newest_step(path)


def read_params(path: str | Path, b: Blueprint, *, step: int | None = None) -> Params:
    """Returns the weights of the chosen step, on the mesh that is set.

    Raises: UserError if they are damaged, or not those of the blueprint.
    """
    step = chosen_step(path, step)
    if others := others_format(path):
        params: Params = others.read_params(path, b)
        return params
    from bertjax.training.checkpoints import load_params

    return load_params(path, abstract_params(b), step=step)


def read_task_data(path: str | Path) -> TaskDataConfig | None:
    """Returns how a fine-tuning of ours read its texts; None of another folder."""
    return runs.read_config(path, FinetuneConfig).data if _is_tuned(path) else None


def read_threshold(path: str | Path, b: Blueprint, step: int | None) -> float | None:
    """Returns the doubt above which a question has no answer; None where the model knows no such questions."""
    if b.task != "answers":
        return None
    if huggingface.is_folder(path):
        return huggingface.read_threshold(path)
    if step is None or not _is_tuned(path):
        return runs.read_facts(path).get("threshold")  # of an import
    from bertjax.training.checkpoints import saved_figures

    return saved_figures(path, step).get("threshold")


def _is_tuned(path: str | Path) -> bool:
    """Returns whether it is the folder of a fine-tuning of ours."""
    return others_format(path) is None and "metric" in runs.read_facts(path)


def export_folder(source: str | Path, directory: str | Path, architecture: str | None = None) -> dict[str, Any]:
    """Makes a Hugging Face folder of a run's, of another or of one of Google's; returns what is in it, as JSON.

    `architecture` names the class it is for; None takes the one that has all the heads.

    Raises: UserError if `directory` holds something, or the model lacks a head of the class.
    """
    from bertjax.interop.model_card import model_card

    source = Path(source)
    b = read_blueprint(source)
    tokenizer = read_tokenizer(source, b)
    step = chosen_step(source)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1])):
        params = read_params(source, b, step=step)
    name = architecture or huggingface.largest_class_of(b)
    card = model_card(source, b, step, name)
    huggingface.write_folder(directory, b, params, tokenizer, name, read_threshold(source, b, step))
    (Path(directory) / "README.md").write_text(card, encoding="utf-8")
    return {"architecture": name, "step": step, "labels": list(b.labels)}


def import_folder(source: str | Path, directory: str | Path) -> dict[str, Any]:
    """Makes a run's folder, of no steps, of one of Hugging Face's or of Google's; returns what is in it, as JSON.

    Raises: UserError if `directory` holds something, or the source is no folder that can be read without a doubt.
    """
    from bertjax.training.checkpoints import Checkpoints
    from bertjax.training.step import TrainState

    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is there already; name a new folder, or empty it")
    if others_format(source) is None:
        raise UserError(
            f"{source} is no Hugging Face folder (its config.json names no model_type) and none of Google's (it has no"
            " bert_config.json)"
        )
    b = read_blueprint(source)
    tokenizer = read_tokenizer(source, b)
    facts = {
        "task": b.task,
        "labels": list(b.labels),
        "heads": list(b.heads),
        "pooling": b.pooling,
        "model": dataclasses.asdict(b.config),
        "threshold": read_threshold(source, b, None),
        "imported": str(source),
    }
    with jax.set_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1])):
        params = read_params(source, b)
        try:
            runs.open_workdir(directory, Imported(), facts, tokenizer)
            with storage.opened(directory) as folder, Checkpoints(folder, CheckpointConfig()) as checkpoints:
                checkpoints.save(TrainState(jnp.int32(0), params, {}), 0, {})
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)  # complete or not there at all
            raise
    parameters = sum(x.size for x in jax.tree.leaves(params))
    return facts | {"vocabulary": tokenizer.vocab_size, "parameters": parameters}


@dataclasses.dataclass(frozen=True)
class Imported:
    """The config of what no run of ours has made: nothing."""

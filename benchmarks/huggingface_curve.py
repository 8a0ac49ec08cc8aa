"""Does training follow a plain PyTorch loop over Hugging Face's BertForPreTraining, step by step?

    python -m benchmarks.huggingface_curve --data CORPUS [--steps 50 --batch_size 16 ...]

`train.run` trains, without dropout. The PyTorch loop starts from the same weights and reads the same batches with the
same masks at the same learning rates; everything else is PyTorch's and Hugging Face's own. Prints one JSON line; the
exit code is 1 if the losses of a step differ by more than 1e-3 relative. Needs the `parity` extra.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
import tyro

import train
from benchmarks.result import print_result
from bertjax import backend, sharding
from bertjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.data.batches import Batch, training_batches
from bertjax.data.corpus import open_corpus
from bertjax.data.mixture import open_mixture
from bertjax.errors import UserError, reported
from bertjax.interop.bert import TIED, huggingface_from_config, places
from bertjax.interop.places import tensors_from_params
from bertjax.model.assembly import Blueprint
from bertjax.model.pretraining import BertForPretraining
from bertjax.training import step
from bertjax.training.metrics import read_metrics

TOLERANCE = 1e-3  # relative, of a step's loss
IGNORED = -100  # the label that Hugging Face's losses leave out


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares the losses of train.py with those of a plain PyTorch loop over Hugging Face's model."""

    data: str
    """A directory that `bertjax prepare` wrote, with next-sentence pairs."""
    steps: int = 50
    """Optimizer updates."""
    batch_size: int = 16
    """Rows of a step."""
    layers: int = 4
    """Number of blocks; the default shape is BERT-mini's."""
    width: int = 256
    """Width of the hidden states; the feed-forward layers are four times as wide."""
    heads: int = 4
    """Attention heads; must divide the width."""
    peak_lr: float = 1e-4
    """Learning rate at the end of the warm-up, a tenth of the steps; it then falls to 0."""
    seed: int = 0
    """Of the weights, the order of the rows and the masks."""


def make_config(a: Arguments) -> Config:
    """Returns the config of our run. Raises: UserError if the corpus or a value is not one that can be compared."""
    corpus = open_corpus(a.data)
    if not corpus.next_sentence:
        raise UserError(f"{a.data} has no next-sentence pairs, which Hugging Face's loss needs; prepare it with them")
    seq_len = corpus.manifest["settings"]["seq_len"]
    try:
        c = Config(
            model=ModelConfig(
                width=a.width,
                layers=a.layers,
                heads=a.heads,
                mlp_width=4 * a.width,
                max_positions=seq_len,
                dropout=0,
                attention_dropout=0,
            ),
            data=DataConfig(path=a.data, seq_len=seq_len),
            optimizer=OptimizerConfig(peak_lr=a.peak_lr, warmup_steps=None),
            train=TrainConfig(steps=a.steps, batch_size=a.batch_size, seed=a.seed, eval_rows=a.batch_size),
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return train.with_vocabulary(c, open_mixture(c.data))


def our_run(c: Config) -> list[dict[str, Any]]:
    """Returns the figures of each step of `train.run`."""
    # Some accelerators round float32 products unless they are asked not to; PyTorch's run here does not.
    with tempfile.TemporaryDirectory() as workdir, jax.default_matmul_precision("highest"):
        train.run(c, workdir)
        return [line for line in read_metrics(Path(workdir)) if "learning_rate" in line]


def their_losses(c: Config, learning_rates: list[float]) -> Iterator[float]:
    """Yields the loss of each step of PyTorch's run."""
    model = first_model(c)
    optimizer = make_optimizer(model, c.optimizer)
    batch_of = training_batches(
        open_mixture(c.data), c.data, rows=range(c.train.batch_size), batch_size=c.train.batch_size, seed=c.train.seed
    )
    for s, learning_rate in enumerate(learning_rates):
        loss = model(**inputs(batch_of(s))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), c.optimizer.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        yield loss.item()


def first_model(c: Config) -> transformers.BertForPreTraining:
    """Returns Hugging Face's model with the weights that our run starts from."""
    with jax.set_mesh(sharding.make_mesh(c.mesh)):
        params = step.fresh_params(lambda rngs: BertForPretraining(c.model, rngs=rngs), c.train.seed)
        tensors = tensors_from_params(params, places(Blueprint(c.model)))
    tensors |= {second: tensors[first] for second, first in TIED.items()}
    model = transformers.BertForPreTraining(transformers.BertConfig(**huggingface_from_config(c.model)))
    model.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
    return model.train()


def make_optimizer(model: torch.nn.Module, c: OptimizerConfig, *, fused: bool = False) -> torch.optim.AdamW:
    """Returns PyTorch's AdamW, whose `fused` is the fastest; biases and LayerNorms do not decay."""
    groups: dict[float, list[torch.nn.Parameter]] = {c.weight_decay: [], 0.0: []}
    for name, parameter in model.named_parameters():
        decays = not (name.endswith("bias") or "LayerNorm" in name)
        groups[c.weight_decay if decays else 0.0].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()],
        betas=(c.b1, c.b2),
        eps=c.epsilon,
        fused=fused,
    )


def inputs(batch: Batch) -> dict[str, torch.Tensor]:
    """Returns a batch, one pair a row, as Hugging Face's model takes it."""
    labels_BS = np.full(batch["ids"].shape, IGNORED)
    rows, places = np.nonzero(batch["weights"])
    labels_BS[rows, batch["predict"][rows, places]] = batch["labels"][rows, places]
    arrays: Mapping[str, np.ndarray] = {
        "input_ids": batch["ids"],
        "token_type_ids": batch["segments"],
        "position_ids": batch["positions"],
        "attention_mask": batch["spans"] > 0,
        "labels": labels_BS,
        "next_sentence_label": np.where(batch["next_weights"] > 0, batch["next"], IGNORED),
    }
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}


def compare(a: Arguments) -> dict[str, Any]:
    """Returns the losses of both runs' first and last steps, and the largest difference of any step's."""
    c = make_config(a)
    lines = our_run(c)
    ours = np.array([line["loss"] for line in lines])
    theirs = np.array(list(their_losses(c, [line["learning_rate"] for line in lines])))
    return dataclasses.asdict(a) | {
        "max_relative_difference": float(np.max(np.abs(ours - theirs) / theirs)),
        "ours": [ours[0], ours[-1]],
        "theirs": [theirs[0], theirs[-1]],
    }


def main() -> None:
    """The command."""
    backend.start()
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported():
        result = compare(arguments)
    print_result("huggingface_curve", result, "jax", "torch", "transformers")
    sys.exit(not result["max_relative_difference"] <= TOLERANCE)  # not a number is a difference, too


if __name__ == "__main__":
    main()

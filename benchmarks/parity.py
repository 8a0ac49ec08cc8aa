"""Does bertjax compute what transformers computes on the same weights, with the same gradients?

    python -m benchmarks.parity [--families Bert --heads ForMaskedLM --sizes base]

For every family, head and size it makes a model of transformers with random weights, imports its folder, and compares
the outputs on rows of several lengths, and the gradients of their product with random numbers by every weight, in
float32. Prints a JSON line for each; the exit code is 1 if one differs by more than 1e-5 of the largest. Needs the
`parity` extra.

Shape letters: B batch (rows), S position.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import transformers
import tyro

from benchmarks.outputs import (
    TOLERANCE,
    Arrays,
    cotangent,
    difference,
    difference_of_outputs,
    outputs_and_gradients,
)
from benchmarks.result import print_result
from bertjax import backend
from bertjax.config import MeshConfig
from bertjax.errors import UserError, reported
from bertjax.interop.huggingface import FAMILIES
from bertjax.sharding import make_mesh


class Size(NamedTuple):
    """A shape of model, and the rows that it reads."""

    config: Mapping[str, Any]
    """In Hugging Face's words."""
    lengths: tuple[int, ...]
    """Tokens of each row; the rest is padding."""
    local_attention: int = 10
    """ModernBERT's window, narrower than the longest row."""


_TINY = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
_SMALL = {"vocab_size": 150, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_BASE = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
SIZES = {
    "tiny": Size(_TINY | {"intermediate_size": 20, "max_position_embeddings": 16}, (12, 7), 4),
    "small": Size(_SMALL | {"intermediate_size": 48, "max_position_embeddings": 64}, (48, 21, 7, 1)),
    "wide": Size(
        {"vocab_size": 200, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"intermediate_size": 512, "max_position_embeddings": 50},
        (48, 21, 7, 1),
    ),
    "deep": Size(
        _SMALL
        | {"num_hidden_layers": 7, "num_attention_heads": 8}
        | {"intermediate_size": 40, "max_position_embeddings": 128},
        (48, 21, 7, 1),
    ),
    "long": Size(
        _SMALL | {"num_hidden_layers": 4, "intermediate_size": 64, "max_position_embeddings": 514}, (512, 300, 3), 128
    ),
    "base": Size(_BASE | {"intermediate_size": 3072, "max_position_embeddings": 514}, (512, 100), 128),
}
"""By name; of 514 positions RoBERTa has 512 to use."""

_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
HEADS = {
    "Bert": ("Model", "ForPreTraining", "ForMaskedLM", "ForNextSentencePrediction", *_CLASSIFIERS),
    "Roberta": ("Model", "ForMaskedLM", *_CLASSIFIERS),
    "ModernBert": ("Model", "ForMaskedLM", *_CLASSIFIERS, "ForSequenceClassification:mean"),
}
"""Of each family: the ends of its classes' names, `:mean` where a text's vector is the mean of its tokens."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares outputs and gradients with those of transformers, on the same random weights."""

    families: tuple[str, ...] = tuple(HEADS)
    """Of Bert, Roberta, ModernBert."""
    heads: tuple[str, ...] = ()
    """Ends of the classes' names, such as ForMaskedLM or Model; none takes all that a family has."""
    sizes: tuple[str, ...] = ("small", "wide", "deep", "long")
    """Of tiny, small, wide, deep, long, base."""


def cases(a: Arguments) -> Iterator[tuple[str, str, str]]:
    """Yields (family, head, size). Raises: UserError for one that is not known."""
    known_heads = {head for heads in HEADS.values() for head in heads}
    choices = (("families", a.families, HEADS), ("heads", a.heads, known_heads), ("sizes", a.sizes, SIZES))
    for name, asked, known in choices:
        for one in asked:
            if one not in known:
                raise UserError(f"{name}={one!r} is unknown; use of {', '.join(sorted(known))}")
    for family, size in itertools.product(a.families, a.sizes):
        yield from ((family, head, size) for head in HEADS[family] if not a.heads or head in a.heads)


def make(family: str, head: str, size: str, labels: int = 3) -> Any:
    """Returns a model of transformers whose weights, biases and norms are so large that all of them count."""
    values = dict(SIZES[size].config)
    name, _, pooling = head.partition(":")
    if family == "ModernBert":
        values |= {"local_attention": SIZES[size].local_attention, "global_attn_every_n_layers": 3, "pad_token_id": 0}
        values |= {"classifier_pooling": pooling or "cls"}
    labels = 2 if "Question" in name else labels
    config = getattr(transformers, f"{family}Config")(**values, num_labels=labels)
    model = getattr(transformers, family + name)(config).eval()
    rng = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        drawn = rng.normal(centre, config.hidden_size**-0.5, parameter.shape)
        parameter.data = torch.tensor(drawn, dtype=torch.float32)
    return model


def make_rows(model: Any, size: str) -> Arrays:
    """Returns rows of several lengths, with segments where there are any."""
    rng = np.random.default_rng(1)
    lengths = SIZES[size].lengths
    shape, places, ends = (len(lengths), max(lengths)), np.arange(max(lengths)), np.array(lengths)[:, None]
    segments = (places >= ends // 2) & (places < ends) & (getattr(model.config, "type_vocab_size", 1) > 1)
    ids = np.where(places < ends, rng.integers(5, model.config.vocab_size, shape), model.config.pad_token_id)
    return {"ids": ids, "segments": segments, "positions": np.broadcast_to(places, shape), "spans": places < ends}


def theirs(model: Any, rows: Arrays, *, gradients: bool = False) -> tuple[Arrays, Arrays]:
    """Returns the outputs of transformers' model and, if asked for, the gradients by the names of their weights."""
    inputs = {name: torch.tensor(value.astype(np.int64)) for name, value in rows.items()}
    arguments = {"input_ids": inputs["ids"], "attention_mask": inputs["spans"], "output_hidden_states": True}
    if hasattr(model.config, "type_vocab_size"):
        arguments["token_type_ids"] = inputs["segments"]
    with torch.set_grad_enabled(gradients):
        found = dict(model(**arguments))
    if "start_logits" in found:
        found["logits"] = torch.stack([found.pop("start_logits"), found.pop("end_logits")], dim=-1)
    if "Masked" in type(model).__name__:
        found["prediction_logits"] = found.pop("logits")
    if "Next" in type(model).__name__:
        found["seq_relationship_logits"] = found.pop("logits")
    hidden = found.pop("hidden_states")
    found.setdefault("last_hidden_state", hidden[-1])
    slopes = {}
    if gradients:
        model.zero_grad()
        torch.stack(
            [(x * torch.tensor(cotangent(name, x, rows["spans"]))).sum() for name, x in found.items()]
        ).sum().backward()
        slopes = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in found.items()}, slopes


def compare(family: str, head: str, size: str, folder: Path) -> dict[str, Any]:
    """Returns how far outputs and gradients are from those of transformers; its model is left in the `folder`."""
    model = make(family, head, size)
    model.save_pretrained(folder)
    rows = make_rows(model, size)
    wanted, wanted_slopes = theirs(model, rows, gradients=True)
    got, slopes = outputs_and_gradients(folder, rows, wanted)
    renamed = FAMILIES[model.config.model_type].renamed
    return {
        "family": family,
        "head": head,
        "size": size,
        "longest": max(SIZES[size].lengths),
        "parameters": sum(x.size for x in wanted_slopes.values()),
        "logits": difference_of_outputs(got, wanted, rows["spans"]),
        "gradients": difference(slopes, {renamed(name): x for name, x in wanted_slopes.items()}),
    }


def main() -> None:
    """The command."""
    backend.start()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    a = tyro.cli(Arguments)
    agree = True
    with reported(), jax.set_mesh(make_mesh(MeshConfig(), jax.local_devices()[:1])):
        for case in cases(a):
            with tempfile.TemporaryDirectory() as folder:
                row = compare(*case, Path(folder))
            print_result("parity", row, "jax", "torch", "transformers")
            agree &= max(row["logits"]["relative"], row["gradients"]["relative"]) <= TOLERANCE
    sys.exit(not agree)


if __name__ == "__main__":
    main()

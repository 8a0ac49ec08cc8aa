"""Hugging Face's BertForPreTraining: its tensors and its config, to ours and back, bit for bit.

The mapping is strict: every tensor has one place, every place one tensor, and what is left over on either side is an
error. Letters: L layers, D width, F feed-forward, V vocabulary, N the three of query, key and value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.model.pretraining import BertForPretraining

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Second names of tensors, there in state dicts and in some files."""

ACTIVATIONS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}

FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "segments",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "layer_norm_eps": "norm_epsilon",
    "initializer_range": "init_std",
}
"""Hugging Face's name of each field. Those missing from a file have the same defaults on both sides."""

REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")

FIXED = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False, "tie_word_embeddings": True}
"""What other fields must be, where they are there: our model has no other."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor of Hugging Face's goes: all of one of our parameters, or the part of it at `index`."""

    name: str
    shape: tuple[int, ...]  # of the tensor
    index: tuple[int, ...] = ()

    def put(self, tensor: np.ndarray, param: np.ndarray) -> None:
        """Writes the tensor into our parameter. Kernels are transposed; the vocabulary's padding is left as it is."""
        part = param[self.index]
        if self.name.endswith("kernel"):
            part[...] = tensor.T.reshape(part.shape)
        else:
            part.reshape(-1, *self.shape[1:])[: self.shape[0]] = tensor

    def take(self, param: np.ndarray) -> np.ndarray:
        """Returns the tensor that `put` would write."""
        part = param[self.index]
        if self.name.endswith("kernel"):
            return np.ascontiguousarray(part.reshape(self.shape[::-1]).T)
        return np.ascontiguousarray(part.reshape(-1, *self.shape[1:])[: self.shape[0]])


def params_from_huggingface(tensors: Mapping[str, np.ndarray], c: ModelConfig) -> nnx.State:
    """Returns the parameters of BertForPretraining(c), float32, on the mesh that is set.

    Raises: UserError if a tensor is missing, left over, of another shape, not floating, or untied from its second name.
    """
    places = _places(c)
    _check_tensors(tensors, places)
    abstract = nnx.state(nnx.eval_shape(lambda: BertForPretraining(c, rngs=nnx.Rngs(0))), nnx.Param)
    params = {_name(path): np.zeros(x.shape, np.float32) for path, x in jax.tree.leaves_with_path(abstract)}
    for name, place in places.items():
        place.put(np.asarray(tensors[name], np.float32), params[place.name])
    mesh = jax.sharding.get_mesh()
    return jax.tree.map_with_path(
        lambda path, x: jax.device_put(params[_name(path)], jax.NamedSharding(mesh, x.sharding.spec)), abstract
    )


def huggingface_from_params(params: nnx.State, c: ModelConfig) -> dict[str, np.ndarray]:
    """Returns the tensors that Hugging Face saves of a BertForPreTraining with these parameters, or their gradients."""
    arrays = {_name(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(params)}
    return {name: place.take(arrays[place.name]) for name, place in _places(c).items()}


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model config that a config.json of Hugging Face's describes.

    Raises: UserError if it describes a model that ours is not.
    """
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise UserError(f"the Hugging Face config lacks {', '.join(missing)}; is it a BERT's config.json?")
    for name, ours in FIXED.items():
        if values.get(name, ours) != ours:
            raise UserError(f"the Hugging Face config says {name}={values[name]!r}; only {ours!r} can be imported")
    activation = values.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"the Hugging Face config says hidden_act={activation!r}; use one of {sorted(ACTIVATIONS)}")
    fields = {ours: values[theirs] for theirs, ours in FIELDS.items() if theirs in values}
    fields["gelu"] = ACTIVATIONS[activation]
    try:
        return ModelConfig(**fields)
    except (ValueError, TypeError) as error:
        raise UserError(f"the Hugging Face config is not a model's: {error}") from error


def huggingface_from_config(c: ModelConfig) -> dict[str, Any]:
    """Returns Hugging Face's config of a BertForPreTraining of this shape."""
    fields = {theirs: getattr(c, ours) for theirs, ours in FIELDS.items()}
    activation = {"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[c.gelu]
    return {"architectures": ["BertForPreTraining"], **FIXED, **fields, "hidden_act": activation}


def _check_tensors(tensors: Mapping[str, np.ndarray], places: Mapping[str, Place]) -> None:
    problems = [f"{name} is missing" for name in places if name not in tensors]
    problems += [f"{name} has no place in the model" for name in tensors if name not in places and name not in TIED]
    for name in places.keys() & tensors.keys():
        tensor, wanted = tensors[name], places[name].shape
        if tensor.shape != wanted:
            problems.append(f"{name} is {list(tensor.shape)}, expected {list(wanted)}")
        if not np.can_cast(tensor.dtype, np.float32):
            problems.append(f"{name} is {tensor.dtype}, which float32 cannot hold")
    for second, first in TIED.items():
        if {second, first} <= tensors.keys() and not np.array_equal(tensors[second], tensors[first]):
            problems.append(f"{second} is not {first}, to which it must be tied")
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise UserError(f"these are not the tensors of a BertForPreTraining with this config: {shown}")


def _places(c: ModelConfig) -> dict[str, Place]:
    """Returns where each tensor goes, in the order in which Hugging Face has them."""
    assert c.vocab_size is not None
    D = c.width
    embeddings, ours = "bert.embeddings.", "encoder.embeddings."
    places = {
        embeddings + "word_embeddings.weight": Place(ours + "token.embedding", (c.vocab_size, D)),
        embeddings + "position_embeddings.weight": Place(ours + "position.embedding", (c.max_positions, D)),
        embeddings + "token_type_embeddings.weight": Place(ours + "segment.embedding", (c.segments, D)),
        **dict(_norm(embeddings + "LayerNorm", ours + "norm", D)),
    }
    for layer in range(c.layers):
        places |= _layer_places(c, layer)
    return places | {
        **dict(_dense("bert.pooler.dense", "pooler.dense", D, D)),
        "cls.predictions.bias": Place("masked_lm.bias", (c.vocab_size,)),
        **dict(_dense("cls.predictions.transform.dense", "masked_lm.dense", D, D)),
        **dict(_norm("cls.predictions.transform.LayerNorm", "masked_lm.norm", D)),
        **dict(_dense("cls.seq_relationship", "next_sentence.dense", 2, D)),
    }


def _layer_places(c: ModelConfig, layer: int) -> dict[str, Place]:
    theirs, ours, D, F = f"bert.encoder.layer.{layer}.", "encoder.blocks.", c.width, c.mlp_width
    places: dict[str, Place] = {}
    for n, name in enumerate(("query", "key", "value")):
        places |= _dense(f"{theirs}attention.self.{name}", ours + "qkv", D, D, (layer, n))
    places |= _dense(theirs + "attention.output.dense", ours + "out", D, D, (layer,))
    places |= _norm(theirs + "attention.output.LayerNorm", ours + "attention_norm", D, (layer,))
    places |= _dense(theirs + "intermediate.dense", ours + "up", F, D, (layer,))
    places |= _dense(theirs + "output.dense", ours + "down", D, F, (layer,))
    places |= _norm(theirs + "output.LayerNorm", ours + "mlp_norm", D, (layer,))
    return places


def _dense(
    theirs: str, ours: str, outputs: int, inputs: int, index: tuple[int, ...] = ()
) -> Iterator[tuple[str, Place]]:
    yield theirs + ".weight", Place(ours + ".kernel", (outputs, inputs), index)
    yield theirs + ".bias", Place(ours + ".bias", (outputs,), index)


def _norm(theirs: str, ours: str, width: int, index: tuple[int, ...] = ()) -> Iterator[tuple[str, Place]]:
    yield theirs + ".weight", Place(ours + ".scale", (width,), index)
    yield theirs + ".bias", Place(ours + ".bias", (width,), index)


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")

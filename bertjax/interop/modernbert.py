"""Hugging Face's ModernBERT in all its classes: its tensors and its config, to ours and back.

Letters: D width, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.interop.configs import ACTIVATIONS, Rules, model_config, their_fields
from bertjax.interop.places import Place, Places, dense
from bertjax.model.assembly import Blueprint, Task

CLASSES: dict[str, tuple[Task, tuple[str, ...]]] = {
    "ModernBertForMaskedLM": ("pretraining", ("masked_lm",)),
    "ModernBertModel": ("pretraining", ()),
    "ModernBertForSequenceClassification": ("classification", ("transform", "classifier")),
    "ModernBertForTokenClassification": ("tagging", ("transform", "classifier")),
    "ModernBertForQuestionAnswering": ("answers", ("transform", "classifier")),
}
"""What each class is for, and which of our heads it has."""

BODY, BARE = "model.", "ModernBertModel"
"""What the encoder's tensors begin with, but in the class without heads."""

TIED = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}
"""Second names of tensors, there in state dicts and in some files."""

UNREAD: tuple[str, ...] = ()
"""How the names of tensors begin that a file of a classifier of texts may hold, and its class does not read."""

HEADS = {"masked_lm": ("decoder.",), "transform": ("head.",), "classifier": ("classifier.",)}
"""How the names of a head's tensors begin. The masked-LM head has a transform, too, which is part of it here."""

GLOBAL, LOCAL = "full_attention", "sliding_attention"

RULES = Rules(
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "max_position_embeddings": "max_positions",
        "mlp_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "norm_epsilon",
        "initializer_range": "init_std",
        "local_attention": "local_window",
    },
    fixed={
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "classifier_activation": "gelu",
        "tie_word_embeddings": True,
        "position_embedding_type": "absolute",  # in the published files, and without effect
    },
    # None of these changes what the model computes; those that say how layers alternate are read below.
    ignored=(
        *("classifier_dropout", "classifier_pooling", "deterministic_flash_attn", "embedding_dropout"),
        *("initializer_cutoff_factor", "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction"),
        *("gradient_checkpointing", "layer_norm_eps", "global_attn_every_n_layers", "layer_types"),
        *("global_rope_theta", "local_rope_theta", "rope_parameters"),
    ),
    defaults={
        "family": "modernbert",
        "max_positions": 8192,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "norm_epsilon": 1e-5,
    },
)


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a config.json describes. Raises: UserError if it describes one that ours is not."""
    c = model_config(values, RULES, activation="hidden_activation")
    if values.get("embedding_dropout", c.dropout) != c.dropout:
        raise UserError(
            f"the Hugging Face config says embedding_dropout={values['embedding_dropout']!r}; only mlp_dropout's"
            f" {c.dropout!r} can be imported"
        )
    return ModelConfig(**{**vars(c), **_thetas(values), "global_every": _global_every(values, c.layers)})


def huggingface_from_config(c: ModelConfig) -> dict[str, Any]:
    """Returns Hugging Face's config of this model, without class and labels."""
    fixed = {name: value for name, value in RULES.fixed.items() if name != "position_embedding_type"}
    return {
        "model_type": "modernbert",
        **fixed,
        **their_fields(c, RULES),
        "embedding_dropout": c.dropout,
        "hidden_activation": ACTIVATIONS[c.gelu][0],
        "layer_types": _layer_types(c.layers, c.global_every),
        "rope_parameters": {
            GLOBAL: {"rope_theta": c.rope_theta, "rope_type": "default"},
            LOCAL: {"rope_theta": c.local_rope_theta, "rope_type": "default"},
        },
    }


def describes(c: ModelConfig) -> bool:
    """Returns whether the model is of this family."""
    return c.family == "modernbert"


def renamed(name: str) -> str:
    """Returns the name of a tensor in the classes with heads; ModernBertModel's have no `model.`."""
    return BODY + name if name.startswith(("embeddings.", "layers.", "final_norm.")) else name


def places(b: Blueprint) -> Places:
    """Returns where each tensor goes, in the order in which Hugging Face has them."""
    c, D = b.config, b.config.width
    assert c.vocab_size is not None
    found = {
        "model.embeddings.tok_embeddings.weight": Place("encoder.embeddings.token.embedding", (c.vocab_size, D)),
        "model.embeddings.norm.weight": Place("encoder.embeddings.norm.scale", (D,)),
    }
    for layer in range(c.layers):
        found |= _layer_places(c, layer)
    found["model.final_norm.weight"] = Place("encoder.final_norm.scale", (D,))
    for head in ("masked_lm", "transform"):
        if head in b.heads:
            found["head.dense.weight"] = Place(f"{head}.dense.kernel", (D, D))
            found["head.norm.weight"] = Place(f"{head}.norm.scale", (D,))
    if "masked_lm" in b.heads:
        found["decoder.bias"] = Place("masked_lm.bias", (c.vocab_size,))
    if "classifier" in b.heads:
        found |= dense("classifier", "classifier", len(b.labels), D)
    return found


def _layer_places(c: ModelConfig, layer: int) -> Iterator[tuple[str, Place]]:
    theirs, ours, D, F = f"model.layers.{layer}.", "encoder.blocks.", c.width, c.mlp_width
    if layer > 0:
        yield theirs + "attn_norm.weight", Place(ours + "attention_norm.scale", (D,), (layer,))
    yield theirs + "attn.Wqkv.weight", Place(ours + "qkv.kernel", (3 * D, D), (layer,), matrices=3)
    yield theirs + "attn.Wo.weight", Place(ours + "out.kernel", (D, D), (layer,))
    yield theirs + "mlp_norm.weight", Place(ours + "mlp_norm.scale", (D,), (layer,))
    yield theirs + "mlp.Wi.weight", Place(ours + "up.kernel", (2 * F, D), (layer,))
    yield theirs + "mlp.Wo.weight", Place(ours + "down.kernel", (D, F), (layer,))


def _thetas(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the bases of the rotations, which newer files have nested."""
    nested = values.get("rope_parameters") or {}
    thetas = {}
    for kind, ours, old in (
        (GLOBAL, "rope_theta", "global_rope_theta"),
        (LOCAL, "local_rope_theta", "local_rope_theta"),
    ):
        rope = nested.get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise UserError(
                f"the Hugging Face config says rope_parameters={nested!r}; only the default type can be read"
            )
        found = rope.get("rope_theta", values.get(old))
        if found is not None:
            thetas[ours] = float(found)
    return thetas


def _global_every(values: Mapping[str, Any], layers: int) -> int:
    types = values.get("layer_types")
    if types is None:
        return int(values.get("global_attn_every_n_layers") or 3)
    every = next((i for i, kind in enumerate(types) if i and kind == GLOBAL), len(types))
    if types != _layer_types(layers, every):
        raise UserError(
            f"the Hugging Face config says layer_types={types!r}; only every n-th, the first too, may be global"
        )
    return every


def _layer_types(layers: int, every: int) -> list[str]:
    return [LOCAL if layer % every else GLOBAL for layer in range(layers)]

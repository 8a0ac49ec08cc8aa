"""Hugging Face's BERT in all its classes: its tensors and its config, to ours and back.

Letters: D width, F feed-forward, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bertjax.config import ModelConfig
from bertjax.interop.configs import ACTIVATIONS, Rules, model_config, their_fields
from bertjax.interop.places import Place, Places, dense, norm
from bertjax.model.assembly import Blueprint, Task

CLASSES: dict[str, tuple[Task, tuple[str, ...]]] = {
    "BertForPreTraining": ("pretraining", ("pooler", "masked_lm", "next_sentence")),
    "BertForMaskedLM": ("pretraining", ("masked_lm",)),
    "BertForNextSentencePrediction": ("pretraining", ("pooler", "next_sentence")),
    "BertModel": ("pretraining", ("pooler",)),
    "BertForSequenceClassification": ("classification", ("pooler", "classifier")),
    "BertForTokenClassification": ("tagging", ("classifier",)),
    "BertForQuestionAnswering": ("answers", ("classifier",)),
    "BertForMultipleChoice": ("choice", ("pooler", "classifier")),
}
"""What each class is for, and which of our heads it has."""

BODY, BARE = "bert.", "BertModel"
"""What the encoder's tensors begin with, but in the class without heads, which may lack its pooler."""

TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
"""Second names of tensors, there in state dicts and in some files."""

UNREAD: tuple[str, ...] = ()
"""How the names of tensors begin that a file of a classifier of texts may hold, and its class does not read."""

HEADS = {
    "pooler": ("bert.pooler.",),
    "masked_lm": ("cls.predictions.",),
    "next_sentence": ("cls.seq_relationship.",),
    "classifier": ("classifier.", "qa_outputs."),
}
"""How the names of a head's tensors begin."""

RULES = Rules(
    fields={
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
    },
    fixed={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "pooler_type": "first_token_transform",  # of the multilingual models
    },
    # None of these changes what the model computes.
    ignored=(
        "classifier_dropout",
        "directionality",
        "gradient_checkpointing",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
    ),
)


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a config.json describes. Raises: UserError if it describes one that ours is not."""
    return model_config(values, RULES, activation="hidden_act")


def huggingface_from_config(c: ModelConfig) -> dict[str, Any]:
    """Returns Hugging Face's config of this model, without class and labels."""
    fixed = {name: value for name, value in RULES.fixed.items() if name != "pooler_type"}
    return {"model_type": "bert", **fixed, **their_fields(c, RULES), "hidden_act": ACTIVATIONS[c.gelu][0]}


def describes(c: ModelConfig) -> bool:
    """Returns whether the model is of this family."""
    return c.family == "bert" and c.position_offset == 0


def renamed(name: str) -> str:
    """Returns today's name of a tensor in the classes with heads.

    BertModel's have no `bert.`, and files converted from TensorFlow say gamma and beta.
    """
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return "bert." + name if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def places(b: Blueprint) -> Places:
    """Returns where each tensor goes, in the order in which Hugging Face has them."""
    c = b.config
    assert c.vocab_size is not None
    D = c.width
    found = encoder_places(c, BODY)
    if "pooler" in b.heads:
        found |= dense("bert.pooler.dense", "pooler.dense", D, D)
    if "masked_lm" in b.heads:
        found["cls.predictions.bias"] = Place("masked_lm.bias", (c.vocab_size,))
        found |= dense("cls.predictions.transform.dense", "masked_lm.dense", D, D)
        found |= norm("cls.predictions.transform.LayerNorm", "masked_lm.norm", D)
    if "next_sentence" in b.heads:
        found |= dense("cls.seq_relationship", "next_sentence.dense", 2, D)
    if "classifier" in b.heads:
        theirs = "qa_outputs" if b.task == "answers" else "classifier"
        found |= dense(theirs, "classifier", len(b.labels), D)
    return found


def encoder_places(c: ModelConfig, body: str) -> Places:
    """Returns where the tensors of the embeddings and of the blocks go, whose names begin with `body`."""
    assert c.vocab_size is not None
    embeddings, ours, D = body + "embeddings.", "encoder.embeddings.", c.width
    positions = c.position_offset + c.max_positions
    found = {
        embeddings + "word_embeddings.weight": Place(ours + "token.embedding", (c.vocab_size, D)),
        embeddings + "position_embeddings.weight": Place(ours + "position.embedding", (positions, D)),
        embeddings + "token_type_embeddings.weight": Place(ours + "segment.embedding", (c.segments, D)),
        **dict(norm(embeddings + "LayerNorm", ours + "norm", D)),
    }
    for layer in range(c.layers):
        found |= _layer_places(c, f"{body}encoder.layer.{layer}.", layer)
    return found


def _layer_places(c: ModelConfig, theirs: str, layer: int) -> Places:
    ours, D, F = "encoder.blocks.", c.width, c.mlp_width
    found: Places = {}
    for n, name in enumerate(("query", "key", "value")):
        found |= dense(f"{theirs}attention.self.{name}", ours + "qkv", D, D, (layer, n))
    found |= dense(theirs + "attention.output.dense", ours + "out", D, D, (layer,))
    found |= norm(theirs + "attention.output.LayerNorm", ours + "attention_norm", D, (layer,))
    found |= dense(theirs + "intermediate.dense", ours + "up", F, D, (layer,))
    found |= dense(theirs + "output.dense", ours + "down", D, F, (layer,))
    found |= norm(theirs + "output.LayerNorm", ours + "mlp_norm", D, (layer,))
    return found

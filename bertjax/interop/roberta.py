"""Hugging Face's RoBERTa (Liu et al. 2019): BERT whose positions start behind the padding's, with heads of other names.

Letters: D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.interop import bert
from bertjax.interop.places import Place, Places, dense, norm
from bertjax.model.assembly import OF_TEXTS, Blueprint, Task

CLASSES: dict[str, tuple[Task, tuple[str, ...]]] = {
    "RobertaForMaskedLM": ("pretraining", ("masked_lm",)),
    "RobertaModel": ("pretraining", ("pooler",)),
    "RobertaForSequenceClassification": ("classification", ("pooler", "classifier")),
    "RobertaForTokenClassification": ("tagging", ("classifier",)),
    "RobertaForQuestionAnswering": ("answers", ("classifier",)),
}
"""What each class is for, and which of our heads it has."""

BODY, BARE = "roberta.", "RobertaModel"
"""What the encoder's tensors begin with, but in the class without heads, which may lack its pooler."""

TIED = {
    "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
"""Second names of tensors, there in state dicts and in some files."""

UNREAD = ("roberta.pooler.",)
"""Left over in the files of some classifiers of texts, whose class has no such layer."""

HEADS = {
    "pooler": ("roberta.pooler.", "classifier.dense."),
    "masked_lm": ("lm_head.",),
    "classifier": ("classifier.", "qa_outputs."),
}
"""How the names of a head's tensors begin. A classifier's dense layer over the first token is what a pooler is."""


def config_from_huggingface(values: Mapping[str, Any]) -> ModelConfig:
    """Returns the model that a config.json describes. Raises: UserError if it describes one that ours is not."""
    c = bert.config_from_huggingface(values)
    padding = values.get("pad_token_id", 1)
    if not isinstance(padding, int):
        raise UserError(f"the Hugging Face config says pad_token_id={padding!r}; RoBERTa's positions begin behind it")
    offset = padding + 1
    if c.max_positions <= offset:
        raise UserError(
            f"the Hugging Face config says max_position_embeddings={c.max_positions}; RoBERTa needs more than {offset}"
        )
    return dataclasses.replace(c, position_offset=offset, max_positions=c.max_positions - offset)


def huggingface_from_config(c: ModelConfig) -> dict[str, Any]:
    """Returns Hugging Face's config of this model, without class and labels."""
    positions = {"max_position_embeddings": c.position_offset + c.max_positions, "pad_token_id": c.position_offset - 1}
    return bert.huggingface_from_config(c) | {"model_type": "roberta"} | positions


def describes(c: ModelConfig) -> bool:
    """Returns whether the model is of this family."""
    return c.position_offset > 0


def renamed(name: str) -> str:
    """Returns today's name of a tensor in the classes with heads; RobertaModel's have no `roberta.`."""
    return BODY + name if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def places(b: Blueprint) -> Places:
    """Returns where each tensor goes, in the order in which Hugging Face has them."""
    c, D = b.config, b.config.width
    assert c.vocab_size is not None
    found = bert.encoder_places(c, BODY)
    if "pooler" in b.heads:
        theirs = "classifier.dense" if b.task in OF_TEXTS else "roberta.pooler.dense"
        found |= dense(theirs, "pooler.dense", D, D)
    if "masked_lm" in b.heads:
        found["lm_head.bias"] = Place("masked_lm.bias", (c.vocab_size,))
        found |= dense("lm_head.dense", "masked_lm.dense", D, D)
        found |= norm("lm_head.layer_norm", "masked_lm.norm", D)
    if "classifier" in b.heads:
        others = "qa_outputs" if b.task == "answers" else "classifier"
        found |= dense("classifier.out_proj" if b.task in OF_TEXTS else others, "classifier", len(b.labels), D)
    return found

"""Hugging Face's config.json to our ModelConfig and back. What is not known is an error, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bertjax.config import ModelConfig
from bertjax.errors import UserError

ACTIVATIONS = {"exact": ("gelu",), "tanh": ("gelu_pytorch_tanh", "gelu_new")}
"""Their names of each of our GELUs, the one to write first."""

REQUIRED = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""Fields whose defaults would be a guess."""

ABOUT = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "finetuning_task", "model_type", "torch_dtype"),
    *("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "transformers_version"),
    *("bos_token_id", "cls_token_id", "eos_token_id", "eos_token_ids", "mask_token_id", "pad_token_id", "sep_token_id"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "reference_compile", "use_cache"),
    *("output_attentions", "output_hidden_states", "output_past", "return_dict", "torchscript", "use_bfloat16"),
    *("do_sample", "length_penalty", "max_length", "num_beams", "num_return_sequences", "repetition_penalty"),
    *("temperature", "top_k", "top_p", "chunk_size_feed_forward", "null_score_diff_threshold"),
}
"""Fields of every config.json that say nothing of what an encoder computes, or that are read elsewhere."""

NOTHING: dict[str, Any] = {"pruned_heads": {}, "cross_attention_hidden_size": None, "is_encoder_decoder": False}
"""Fields of every config.json that can only be as they are by default."""


class Rules(NamedTuple):
    """What a family's config.json may hold, beside what every one may."""

    fields: Mapping[str, str]
    """Their name of each of our fields; those missing from a file have the same defaults on both sides."""
    fixed: Mapping[str, Any]
    """What other fields must be, where they are there: our model has no other."""
    ignored: tuple[str, ...] = ()
    """Fields that do not change what the model computes."""
    defaults: Mapping[str, Any] = {}
    """Of our fields, where theirs have other defaults than ours, or none."""


def model_config(values: Mapping[str, Any], rules: Rules, *, activation: str) -> ModelConfig:
    """Returns the model config that a config.json describes; `activation` names the field of its GELU.

    Raises: UserError if it describes a model that ours is not.
    """
    missing = [name for name in REQUIRED if name not in values]
    if missing:
        raise UserError(f"the Hugging Face config lacks {', '.join(missing)}; is it an encoder's config.json?")
    fixed = {**rules.fixed, **NOTHING}
    for name, ours in fixed.items():
        if values.get(name, ours) != ours:
            raise UserError(f"the Hugging Face config says {name}={values[name]!r}; only {ours!r} can be imported")
    unknown = values.keys() - {*rules.fields, *fixed, *rules.ignored, *ABOUT, activation}
    if unknown:
        shown = ", ".join(f"{name}={values[name]!r}" for name in sorted(unknown))
        raise UserError(f"the Hugging Face config says {shown}, which is not known here")
    fields = {ours: values[theirs] for theirs, ours in rules.fields.items() if theirs in values}
    fields["gelu"] = _gelu(values.get(activation, "gelu"), activation)
    try:
        return ModelConfig(**{**rules.defaults, **fields})
    except (ValueError, TypeError) as error:
        raise UserError(f"the Hugging Face config is not a model's: {error}") from error


def their_fields(c: ModelConfig, rules: Rules) -> dict[str, Any]:
    """Returns the fields of a config.json that are ours under their names."""
    return {theirs: getattr(c, ours) for theirs, ours in rules.fields.items()}


def _gelu(theirs: Any, field: str) -> str:
    for ours, names in ACTIVATIONS.items():
        if theirs in names:
            return ours
    known = sorted(name for names in ACTIVATIONS.values() for name in names)
    raise UserError(f"the Hugging Face config says {field}={theirs!r}; use one of {known}")

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from bertjax.config import ModelConfig
from bertjax.errors import UserError
from bertjax.interop.bert import TIED, config_from_huggingface, huggingface_from_config, places
from bertjax.interop.places import params_from_tensors, tensors_from_params
from bertjax.model.assembly import Blueprint, abstract_params
from bertjax.model.params import Params
from tests.golden import bert
from tests.model import tiny

B = Blueprint(config_from_huggingface(bert.CONFIG))
WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"


def params(tensors: Mapping[str, np.ndarray]) -> Params:
    return params_from_tensors(tensors, places(B), abstract_params(B), TIED)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return {k.removeprefix("weight/"): v for k, v in load_file(bert.PATH).items() if k.startswith("weight/")}


def test_tensors_survive_the_way_in_and_out_bit_for_bit(tensors: dict[str, np.ndarray]) -> None:
    back = tensors_from_params(params(tensors), places(B))
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)
        assert back[name].dtype == tensor.dtype


def test_parameters_survive_the_way_out_and_in_bit_for_bit() -> None:
    b = Blueprint(tiny.CONFIG)
    back = params_from_tensors(tensors_from_params(tiny.params(), places(b)), places(b), abstract_params(b))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), tiny.params())


def test_tied_tensors_may_stand_in_the_file_twice(tensors: dict[str, np.ndarray]) -> None:
    params(tensors | {DECODER: tensors[WORDS]})


def test_what_does_not_fit_is_named_on_both_sides(tensors: dict[str, np.ndarray]) -> None:
    del tensors["bert.pooler.dense.bias"]
    tensors |= {
        "bert.encoder.layer.3.output.dense.bias": np.zeros(24, np.float32),
        "bert.embeddings.LayerNorm.bias": np.zeros(25, np.float32),
        "cls.predictions.bias": np.zeros(70, np.float64),
        "bert.embeddings.LayerNorm.weight": np.full(24, np.nan, np.float32),
        DECODER: tensors[WORDS] + 1,
    }
    with pytest.raises(UserError) as caught:
        params(tensors)
    for part in (
        "bert.pooler.dense.bias is missing",
        "bert.encoder.layer.3.output.dense.bias has no place",
        "bert.embeddings.LayerNorm.bias is [25], expected [24]",
        "cls.predictions.bias is float64",
        "bert.embeddings.LayerNorm.weight holds numbers that are not finite",
        f"{DECODER} is not {WORDS}",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_configs_survive_the_way_out_and_in(gelu: Any) -> None:
    c = ModelConfig(1000, 48, 3, 4, 96, 64, 3, gelu, 0.2, 0.3, 1e-6, 0.05)
    assert config_from_huggingface(huggingface_from_config(c)) == c


def test_the_defaults_are_hugging_faces() -> None:
    base = {"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    assert config_from_huggingface(base | {"intermediate_size": 3072}) == ModelConfig(vocab_size=30522)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'; use one of ['gelu', 'gelu_new', 'gelu_pytorch_tanh']"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'; only 'absolute'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]}; only {}"),
        ({"rotary_dim": 8, "experts": 2}, "experts=2, rotary_dim=8, which is not known"),
        ({"num_attention_heads": 5}, "heads=5 do not divide width=24"),
        ({"hidden_size": "wide"}, "is not a model's"),
    ],
)
def test_a_config_of_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        config_from_huggingface(bert.CONFIG | change)


def test_a_config_without_sizes_is_refused() -> None:
    with pytest.raises(UserError, match="lacks hidden_size"):
        config_from_huggingface({name: value for name, value in bert.CONFIG.items() if name != "hidden_size"})

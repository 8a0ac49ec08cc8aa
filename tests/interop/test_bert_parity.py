"""On the same weights bertjax computes what Hugging Face's BertForPreTraining computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from bertjax.interop.bert import config_from_huggingface, places
from bertjax.interop.places import params_from_tensors, tensors_from_params
from bertjax.model.assembly import Blueprint, abstract_params
from bertjax.model.pretraining import BertForPretraining
from bertjax.training.losses import Sums, objective, pretraining_loss
from tests.golden import bert

Arrays = Mapping[str, np.ndarray]
TOLERANCE = 1e-5  # absolute, in float32; of the gradients relative to their global norm


def prefixed(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def ours(config: Mapping[str, Any], weights: Arrays, rows: Arrays) -> dict[str, np.ndarray]:
    """Returns what make_bert.py's `reference` returns, but logits of the predicted positions only."""
    c = config_from_huggingface(config)
    b = Blueprint(c)
    params = params_from_tensors(weights, places(b), abstract_params(b))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: BertForPretraining(c, rngs=nnx.Rngs(0))))
    shape = rows["ids"].shape
    inputs = (rows["ids"], rows["segments"], np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape), rows["spans"])
    batch = dict(zip(("ids", "segments", "positions", "spans"), inputs, strict=True)) | {
        "predict": bert.PREDICT_BM,
        "labels": np.take_along_axis(rows["labels"], bert.PREDICT_BM, axis=1),
        "weights": bert.PREDICTED_BM,
        "cls": np.zeros((len(bert.LENGTHS), 1), np.int32),
        "next": rows["next"][:, None],
        "next_weights": np.ones((len(bert.LENGTHS), 1), np.float32),
    }

    @jax.jit
    def outputs(params: nnx.State, batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], nnx.State]:
        model = nnx.merge(graphdef, params)
        hidden_LBSD = model.encoder(*(batch[k] for k in ("ids", "segments", "positions", "spans")), all_layers=True)
        mlm_logits_BMV, nsp_logits_BPC = model(
            *(batch[k] for k in ("ids", "segments", "positions", "spans", "predict", "cls"))
        )

        def loss(params: nnx.State) -> tuple[jax.Array, Sums]:
            sums = pretraining_loss(nnx.merge(graphdef, params), batch, None)
            return objective(sums), sums

        (_, sums), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return {
            "hidden_LBSD": hidden_LBSD,
            "pooled_BD": model.pooler(hidden_LBSD[-1, :, :1])[:, 0],
            "mlm_logits_BMV": mlm_logits_BMV[..., : c.vocab_size],
            "nsp_logits_BC": nsp_logits_BPC[:, 0],
            "mlm_loss": sums["mlm_loss"][0] / sums["mlm_loss"][1],
            "nsp_loss": sums["nsp_loss"][0] / sums["nsp_loss"][1],
        }, gradients

    computed, gradients = outputs(params, jax.tree.map(jnp.asarray, batch))
    named = {f"gradient/{name}": value for name, value in tensors_from_params(gradients, places(b)).items()}
    return jax.device_get(computed) | named


def assert_agree(config: Mapping[str, Any], weights: Arrays, rows: Arrays, wanted: Arrays) -> None:
    got = ours(config, weights, rows)
    real_BS = rows["spans"] > 0
    for layer, (x_BSD, y_BSD) in enumerate(zip(got["hidden_LBSD"], wanted["hidden_LBSD"], strict=True)):
        np.testing.assert_allclose(x_BSD[real_BS], y_BSD[real_BS], atol=TOLERANCE, err_msg=f"layer {layer}")
    predicted = bert.PREDICTED_BM > 0
    wanted_BMV = np.take_along_axis(wanted["mlm_logits_BSV"], bert.PREDICT_BM[:, :, None], axis=1)
    np.testing.assert_allclose(got["mlm_logits_BMV"][predicted], wanted_BMV[predicted], atol=TOLERANCE)
    for name in ("pooled_BD", "nsp_logits_BC", "mlm_loss", "nsp_loss"):
        np.testing.assert_allclose(got[name], wanted[name], atol=TOLERANCE, err_msg=name)
    slopes = prefixed(wanted, "gradient/")
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in slopes.values()))
    assert slopes.keys() == prefixed(got, "gradient/").keys()
    for name, slope in slopes.items():
        np.testing.assert_allclose(got[f"gradient/{name}"] / norm, slope / norm, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_agrees_with_the_golden_values(activation: str) -> None:
    golden = load_file(bert.PATH)
    config = bert.CONFIG | {"hidden_act": activation}
    rows = bert.make_batch(config["vocab_size"])
    assert_agree(config, prefixed(golden, "weight/"), rows, prefixed(golden, f"{activation}/"))


def test_the_two_forms_of_gelu_are_told_apart() -> None:
    golden = load_file(bert.PATH)
    exact, tanh = (golden[f"{activation}/hidden_LBSD"] for activation in ("gelu", "gelu_new"))
    assert np.abs(exact - tanh).max() > 10 * TOLERANCE


@pytest.mark.parity
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_new", "num_hidden_layers": 1, "vocab_size": 128},
        {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "vocab_size": 300},
        {"hidden_size": 40, "num_attention_heads": 8, "num_hidden_layers": 6, "type_vocab_size": 3},
    ],
)
def test_agrees_with_transformers_itself(changes: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    from tests.golden.make_bert import make_weights, reference

    config = bert.CONFIG | {"hidden_act": "gelu"} | changes
    weights, rows = make_weights(config, seed=1), bert.make_batch(config["vocab_size"])
    assert_agree(config, weights, rows, reference(config, weights, rows))

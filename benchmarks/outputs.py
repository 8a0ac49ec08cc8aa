"""What an imported folder's model computes: outputs and gradients, and how far they are from others'.

Shape letters: B batch (rows), S position, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bertjax import pretrained
from bertjax.inference import make_model
from bertjax.interop.huggingface import FAMILIES
from bertjax.interop.places import tensors_from_params
from bertjax.model.assembly import OF_TEXTS
from bertjax.model.params import Params

TOLERANCE = 1e-5  # of the largest value, in float32

Arrays = dict[str, np.ndarray]


def cotangent(name: str, output: Any, real_BS: np.ndarray) -> np.ndarray:
    """Returns the random numbers that an output is multiplied by, 0 on padding: the same for both sides."""
    drawn = np.random.default_rng(len(name)).normal(size=output.shape).astype(np.float32)
    return drawn * real_BS[..., None] if output.shape[:2] == real_BS.shape else drawn


def outputs_and_gradients(folder: Path, rows: Arrays, wanted: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """Returns those of the `wanted` outputs of the imported folder's model, and their gradients, by the same names."""
    b = pretrained.read_blueprint(folder)
    params = pretrained.read_params(folder, b)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(b)))
    inputs = [rows[name].astype(np.int32) for name in ("ids", "segments", "positions", "spans")]

    def product(params: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
        model: Any = nnx.merge(graphdef, params)
        x_BSD = model.encoder(*inputs)
        found = {"last_hidden_state": x_BSD}
        if "pooler" in b.heads:
            found["pooler_output"] = model.pooler(x_BSD[:, 0])
        if "masked_lm" in b.heads:
            logits_BSV = model.masked_lm(x_BSD, model.encoder.embeddings.token.embedding[...])
            found["prediction_logits"] = logits_BSV[..., : b.config.vocab_size]
        if "next_sentence" in b.heads:
            found["seq_relationship_logits"] = model.next_sentence(found["pooler_output"])
        if "classifier" in b.heads:
            found["logits"] = model(*inputs) if b.task in OF_TEXTS else model.token_logits(x_BSD)
        found = {name: found[name] for name in wanted}
        products = [jnp.sum(x * cotangent(name, x, rows["spans"])) for name, x in found.items()]
        return jnp.sum(jnp.stack(products)), found

    with jax.default_matmul_precision("highest"):
        slopes, found = jax.jit(jax.grad(product, has_aux=True))(params)
    places = next(family for family in FAMILIES.values() if family.describes(b.config)).places(b)
    return jax.device_get(found), tensors_from_params(slopes, places)


def difference(got: Arrays, wanted: Arrays) -> dict[str, float]:
    """Returns the largest absolute difference, the largest value, and the one relative to the other."""
    if got.keys() != wanted.keys():
        raise ValueError(f"only one side has {sorted(got.keys() ^ wanted.keys())}")
    absolute = max(float(np.abs(got[name] - wanted[name]).max()) for name in wanted)
    largest = max(float(np.abs(x).max()) for x in wanted.values())
    return {"absolute": absolute, "largest": largest, "relative": absolute / largest}


def difference_of_outputs(got: Arrays, wanted: Arrays, real_BS: np.ndarray) -> dict[str, float]:
    """Returns the difference of that output which differs most, relative to its own largest value; without padding."""

    def real(x: np.ndarray) -> np.ndarray:
        return x[real_BS] if x.shape[:2] == real_BS.shape else x

    found = [difference({name: real(got[name])}, {name: real(wanted[name])}) for name in wanted]
    return max(found, key=lambda one: one["relative"])

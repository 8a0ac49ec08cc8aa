"""Losses as sums with their weights, so that every mean is a mean over the global batch.

A `Sums` maps a figure to (sum, weight). Sums of several batches, shards or accumulation steps add up; means do not.
Shape letters: B batch (rows), M predicted positions, P pairs in a row, V vocabulary, C classes, N any leading ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bertjax.model.pretraining import BertForPretraining

Sums = dict[str, tuple[jax.Array, jax.Array]]


def cross_entropy_sums(logits_NC: jax.Array, labels_N: jax.Array, weights_N: jax.Array, name: str) -> Sums:
    """Returns `{name}loss` (nats) and `{name}accuracy`, computed in float32.

    The label's logit is picked by comparison, not by a gather, which would need the classes on one device.
    """
    logits_NC = logits_NC.astype(jnp.float32)
    class_NC = jax.lax.broadcasted_iota(labels_N.dtype, logits_NC.shape, logits_NC.ndim - 1)
    picked_N = jnp.sum(jnp.where(labels_N[..., None] == class_NC, logits_NC, 0.0), axis=-1)
    loss_N = jax.nn.logsumexp(logits_NC, axis=-1) - picked_N
    # The first of the largest is the answer, as of argmax, which is a slow loop on CPU: 8 % of a small model's step.
    label_N1, picked_N1 = labels_N[..., None], picked_N[..., None]
    ahead_NC = (logits_NC > picked_N1) | ((logits_NC == picked_N1) & (class_NC < label_N1))
    correct_N = ~jnp.any(ahead_NC, axis=-1)
    weight = jnp.sum(weights_N)
    return {
        f"{name}loss": (jnp.sum(loss_N * weights_N), weight),
        f"{name}accuracy": (jnp.sum(correct_N * weights_N), weight),
    }


def objective(sums: Sums, weights: Mapping[str, jax.Array] | None = None) -> jax.Array:
    """Returns what is minimised: the means of the losses among `sums`, 0 where nothing was weighed, added up.

    `weights` are those of the whole of which `sums` are a part: the parts' objectives then add up to that of the whole.
    """
    return sum(
        (
            total / jnp.maximum(weight if weights is None else weights[name], 1.0)
            for name, (total, weight) in sums.items()
            if name.endswith("loss")
        ),
        start=jnp.float32(0),
    )


def pretraining_loss(model: BertForPretraining, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the loss (nats) and the accuracy of masked words and, if the model has that head, of next sentences.

    `batch` is as data/batches.py makes it. Dropout is on exactly when `key` is given.
    Source: Devlin et al. 2019, appendix A.2: the sum of the two mean likelihoods.
    """
    mlm_logits_BMV, nsp_logits_BPC = model(
        batch["ids"], batch["segments"], batch["positions"], batch["spans"], batch["predict"], batch["cls"], key=key
    )
    sums = cross_entropy_sums(mlm_logits_BMV, batch["labels"], batch["weights"], "mlm_")
    if nsp_logits_BPC is not None:
        sums |= cross_entropy_sums(nsp_logits_BPC, batch["next"], batch["next_weights"], "nsp_")
    return sums

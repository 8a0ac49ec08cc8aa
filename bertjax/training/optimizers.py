"""AdamW as BERT uses it, LAMB, and their learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.config import OptimizerConfig
from bertjax.model.params import name_of


def learning_rate(c: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns rate(count), count updates having been made: a linear rise to the peak, then a fall.

    Update number `warmup_steps` has the peak, the one after the last would have 0. The fall is linear; of the `stable`
    schedule it comes last, as 1 minus a square root.
    Source: Haegele et al. 2024 (arXiv 2405.18392), section 3, for the latter.
    Differs from: google-research/bert, where the first update has rate 0 and the fall starts at step 0.
    """
    warmup = steps // 10 if c.warmup_steps is None else c.warmup_steps
    decay = max(1, steps // 10 if c.decay_steps is None else c.decay_steps)

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.asarray(count, jnp.float32)
        rise = (done + 1) / max(1, warmup)
        if c.schedule == "stable":
            fall = 1 - jnp.sqrt(((done - (steps - decay)) / decay).clip(0, 1))
        else:
            fall = (steps - done) / max(1, steps - warmup)
        return c.peak_lr * jnp.minimum(rise, fall).clip(0, 1)

    return rate


def make_optimizer(c: OptimizerConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns clipping to a global norm, Adam, decay of what is neither a bias nor LayerNorm, and the learning rate.

    LAMB scales what Adam and the decay come to, too. With `layer_decay` the rate is that much lower with each layer
    further down, once for the top block.
    Source: Devlin et al. 2019, appendix A.2; Loshchilov and Hutter 2019 for the decoupled decay; Howard and Ruder 2018,
    section 3.2, for rates by layer.
    """
    adam = optax.scale_by_adam if c.bias_correction else scale_by_uncorrected_adam
    return optax.chain(
        optax.clip_by_global_norm(c.clip_norm),
        adam(b1=c.b1, b2=c.b2, eps=c.epsilon),
        optax.add_decayed_weights(c.weight_decay, mask=decayed),
        *([scale_by_norms()] if c.kind == "lamb" else []),
        optax.scale_by_learning_rate(rate),
        optax.identity() if c.layer_decay == 1 else scale_by_layer(c.layer_decay),
    )


def scale_by_norms() -> optax.GradientTransformation:
    """Returns updates that have the norm of the weights, matrix by matrix; biases' and LayerNorms' stay as they are.

    Blocks are stacked and query, key and value are one array here; each of their matrices counts by itself. Where
    either norm is 0 the update stays, too.
    Source: You et al. 2020 (arXiv 1904.00962), algorithm 2, the scaling function being the identity; google-research's
    lamb_optimizer.py for what is left out.
    """

    def scaled(path: jax.tree_util.KeyPath, update: jax.Array, weights: jax.Array) -> jax.Array:
        names = _names(path)
        if {"bias", "scale"} & set(names):
            return update
        apart = ("blocks" in names) + ("qkv" in names)  # leading axes: layers; query, key and value
        axes = tuple(range(apart, update.ndim))
        ours, its = (jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True)) for x in (weights, update))
        return update * jnp.where((ours > 0) & (its > 0), ours / jnp.where(its > 0, its, 1), 1)

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map_with_path(scaled, updates, params)

    return optax.stateless(scale)


def scale_by_layer(decay: float) -> optax.GradientTransformation:
    """Returns updates times decay^k, k layers below the heads."""

    def scaled(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        heights, top = _heights(updates)
        return jax.tree.map(lambda u, height: u * jnp.asarray(decay ** (top - height), u.dtype), updates, heights)

    return optax.stateless(scaled)


def freeze(tx: optax.GradientTransformation, layers: int | None) -> optax.GradientTransformation:
    """Returns `tx`, the embeddings and so many blocks above them kept as they are; None keeps nothing.

    Their gradients do not count in the global norm either.
    """
    if layers is None:
        return tx

    def still(tree: Any, zero: float) -> Any:
        return jax.tree.map(lambda x, height: jnp.where(height <= layers, zero, x), tree, _heights(tree)[0])

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = tx.update(still(grads, 0.0), state, params)
        return still(updates, -0.0), state  # -0 added changes no bit; 0 would make 0 of -0

    return optax.GradientTransformation(tx.init, update)


def _heights(tree: Any) -> tuple[Any, int]:
    """Returns where each weight stands, 0 for embeddings, 1 to L for blocks, and L + 1, where all others stand.

    They have the rank of the weights, and the stacked blocks' are [L, 1, ...].
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    layers = next((x.shape[0] for path, x in leaves if "blocks" in _names(path)), 0)

    def height(path: jax.tree_util.KeyPath, x: jax.Array) -> np.ndarray:
        if "blocks" in _names(path):
            return np.arange(1, layers + 1).reshape(layers, *[1] * (x.ndim - 1))
        return np.full([1] * x.ndim, 0 if "embeddings" in _names(path) else layers + 1)

    return jax.tree.map_with_path(height, tree), layers + 1


def _names(path: jax.tree_util.KeyPath) -> list[str]:
    return name_of(path).split(".")


def decayed(params: Any) -> Any:
    """Returns the tree of booleans that says which parameters decay: all but biases and LayerNorm's scales."""

    def decays(path: jax.tree_util.KeyPath, _: jax.Array) -> bool:
        return not {"bias", "scale"} & set(_names(path))

    return jax.tree.map_with_path(decays, params)


class UncorrectedAdamState(NamedTuple):
    """Running means of the gradients and of their squares, both from 0."""

    mu: Any
    nu: Any


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Returns Adam without the correction of its means for their start at 0.

    Source: google-research/bert, optimization.py, AdamWeightDecayOptimizer.
    """

    def init(params: optax.Params) -> UncorrectedAdamState:
        return UncorrectedAdamState(jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))

    def update(
        grads: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)

"""A longer vocabulary for a pretrained model: its own entries first, then new ones that start from their old pieces."""

from __future__ import annotations

import jax
import numpy as np

from bertjax import hosts
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model.params import Params, name_of

OF_THE_VOCABULARY = ("encoder.embeddings.token.embedding", "masked_lm.bias")


def check_extends(new: Tokenizer, old: Tokenizer, folder: str) -> None:
    """Raises UserError, with the remedy, unless `new` begins with the entries of `old` and has its case."""
    if new.cased != old.cased or new.pieces[: old.vocab_size] != old.pieces:
        raise UserError(
            f"the corpus was not prepared with the vocabulary of {folder}, nor with one that begins with it; prepare it"
            f" again with --vocab and its vocab.txt{' --cased' if old.cased else ''}, new entries appended"
        )


def extend(params: Params, abstract: Params, old: Tokenizer, new: Tokenizer) -> Params:
    """Returns the parameters as `abstract` describes them, which may have more rows for the vocabulary.

    The vector (and the bias) of a new entry is the mean of those of the pieces that it was before. Waits for all
    processes.
    """
    added = new.pieces[old.vocab_size :]
    pieces = old.encode_batch([piece.removeprefix("##") for piece in added])

    wanted = {name_of(path): x for path, x in jax.tree.leaves_with_path(abstract)}

    def extended(path: jax.tree_util.KeyPath, x: jax.Array) -> jax.Array:
        target = wanted.get(name_of(path))
        if name_of(path) not in OF_THE_VOCABULARY or target is None or (not added and target.shape == x.shape):
            return x
        rows = np.zeros(target.shape, np.float32)
        rows[: len(x)] = hosts.whole(x)
        for i, ids in enumerate(pieces, old.vocab_size):
            rows[i] = rows[ids or [old.unk_id]].mean(axis=0)
        return jax.device_put(rows, jax.NamedSharding(jax.sharding.get_mesh(), jax.typeof(target).sharding.spec))

    made: Params = jax.tree.map_with_path(extended, params)
    return made

"""The model that is pretrained: the encoder with its heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.model.assembly import PRETRAINING_HEADS, WITHOUT_PAIRS, Assembly, Blueprint


def gather(x_BSD: jax.Array, positions_BM: jax.Array) -> jax.Array:
    """Returns x_BMD, the hidden states at the given positions of each row."""
    return jnp.take_along_axis(x_BSD, positions_BM[:, :, None], axis=1)


class BertForPretraining(Assembly):
    """BERT with masked-LM and next-sentence heads (Devlin et al. 2019, section 3.1), or with the former alone."""

    def __init__(self, c: ModelConfig, *, next_sentence: bool = True, rngs: nnx.Rngs):
        super().__init__(Blueprint(c, PRETRAINING_HEADS if next_sentence else WITHOUT_PAIRS), rngs=rngs)

    def __call__(
        self,
        ids_BS: jax.Array,
        segments_BS: jax.Array,
        positions_BS: jax.Array,
        spans_BS: jax.Array,
        predict_BM: jax.Array,
        cls_BP: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns (mlm_logits_BMV, nsp_logits_BPC): of the positions `predict_BM`, of the pairs that start at `cls_BP`.

        The latter is None without that head. Dropout is on exactly when `key` is given.
        """
        x_BSD = self.encoder(ids_BS, segments_BS, positions_BS, spans_BS, key=key, most_spans=cls_BP.shape[1])
        mlm_logits_BMV = self.masked_lm(gather(x_BSD, predict_BM), self.encoder.embeddings.token.embedding[...])
        if not hasattr(self, "next_sentence"):
            return mlm_logits_BMV, None
        return mlm_logits_BMV, self.next_sentence(self.pooler(gather(x_BSD, cls_BP)))

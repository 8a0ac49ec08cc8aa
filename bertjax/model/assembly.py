"""What a checkpoint holds: the encoder and those heads that it has."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
from flax import nnx

from bertjax.config import ModelConfig, Pooling
from bertjax.model import layers
from bertjax.model.encoder import Encoder
from bertjax.model.heads import MaskedLmHead, NextSentenceHead, Pooler, Transform, WeightedMean, text_width
from bertjax.model.params import Params, params_of
from bertjax.sharding import ACT_B, REPLICATED

Task = Literal["pretraining", "classification", "multilabel", "regression", "tagging", "answers", "choice"]
"""What the heads are for. Answers are tags, too: two logits for each token, that it starts and that it ends one. A
choice has one logit, and is read with its text as a pair."""

OF_TEXTS: tuple[Task, ...] = ("classification", "multilabel", "regression")
"""Tasks whose classifier stands over the vector of a text; that of the others stands over the tokens."""

PRETRAINING_HEADS = ("pooler", "masked_lm", "next_sentence")
WITHOUT_PAIRS = ("masked_lm",)
"""Those of a pretraining on text without next-sentence pairs, which would teach the others nothing."""


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What a checkpoint holds, enough to make the model that its weights go into."""

    config: ModelConfig
    heads: tuple[str, ...] = PRETRAINING_HEADS
    """Which of pooler, weighted, masked_lm, next_sentence, transform and classifier there are."""
    task: Task = "pretraining"
    labels: tuple[str, ...] = ()
    """What the classifier's logits stand for, in their order."""
    pooling: Pooling = "cls"
    """How a classifier of texts takes the vector of a text."""


def classifier_heads(c: ModelConfig, task: Task, pooling: Pooling = "cls") -> tuple[str, ...]:
    """Returns the heads of a classifier of texts or, as the task is, of tokens."""
    modernbert = c.family == "modernbert"
    heads = ("transform", "classifier") if modernbert and pooling != "layers" else ("classifier",)
    if task in OF_TEXTS and pooling == "weighted":
        return ("weighted", *heads)
    pooled = (task in OF_TEXTS and pooling == "cls") or task == "choice"
    return ("pooler", *heads) if pooled and not modernbert else heads


def wide_initializer(c: ModelConfig) -> jax.nn.initializers.Initializer:
    """Returns a normal distribution whose sum over normalized inputs has about unit variance, cut at three deviations.

    ModernBERT's classifiers begin so; BERT's begin narrower, with `init_std`.
    Source: Hugging Face's ModernBertPreTrainedModel, `final_out`.
    """
    return functools.partial(
        nnx.initializers.truncated_normal(c.width**-0.5, lower=-3.0, upper=3.0), out_sharding=REPLICATED
    )


class Assembly(nnx.Module):
    """The encoder and the heads of a blueprint, under the names that they have in every model here."""

    def __init__(self, b: Blueprint, *, rngs: nnx.Rngs):
        c = b.config
        self.encoder = Encoder(c, rngs=rngs)
        if "pooler" in b.heads:
            self.pooler = Pooler(c, rngs=rngs)
        if "weighted" in b.heads:
            self.weighted = WeightedMean(c, rngs=rngs)
        if "masked_lm" in b.heads:
            self.masked_lm = MaskedLmHead(c, rngs=rngs)
        if "next_sentence" in b.heads:
            self.next_sentence = NextSentenceHead(c, rngs=rngs)
        if "transform" in b.heads:
            self.transform = Transform(c, rngs=rngs)
        if "classifier" in b.heads:
            begun = {"kernel_init": wide_initializer(c)} if "transform" in b.heads else {}
            width = text_width(c, b.pooling)
            self.classifier = nnx.Linear(width, len(b.labels), **layers.weights(c, REPLICATED) | begun, rngs=rngs)

    def token_logits(self, x_BSD: jax.Array) -> jax.Array:
        """Returns logits_BSC of a classifier of tokens, from the encoder's last hidden states, or of other vectors."""
        read_BSD = self.transform(x_BSD) if hasattr(self, "transform") else x_BSD
        return self.classifier(read_BSD, out_sharding=ACT_B)


def abstract_params(b: Blueprint) -> Params:
    """Returns names, shapes and shardings of the parameters, without making them."""
    return params_of(nnx.eval_shape(lambda: Assembly(b, rngs=nnx.Rngs(0))))

"""Writes golden/google: the weights of bert.safetensors as a checkpoint that TensorFlow itself saved, as Google's.

Needs TensorFlow and safetensors, best in an environment of their own, for bertjax needs neither:
`python tests/golden/make_google.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import tensorflow.compat.v1 as tf
from safetensors.numpy import load_file

HERE = Path(__file__).parent
HEADS = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}


def googles_name(name: str) -> str:
    """Returns the name that google-research/bert gives a variable."""
    name = HEADS.get(name) or re.sub(r"layer\.(\d+)", r"layer_\1", name)
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    name = re.sub(r"_embeddings\.weight$", "_embeddings", name)
    return re.sub(r"\.weight$", ".kernel", name).replace(".", "/")


def main() -> None:
    """Writes the checkpoint, with a step and some of an optimizer's variables beside the model's."""
    tf.disable_eager_execution()
    for name, x in load_file(HERE / "bert.safetensors").items():
        if name.startswith("weight/"):
            variable = googles_name(name.removeprefix("weight/"))
            value = tf.constant(x.T if variable.endswith("/kernel") else x)
            tf.get_variable(variable, initializer=value)
            if "LayerNorm" in variable:
                tf.get_variable(f"{variable}/adam_m", initializer=value)
    tf.get_variable("global_step", initializer=tf.constant(7, tf.int64))
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(
            session, str(HERE / "google" / "bert_model.ckpt"), write_meta_graph=False, write_state=False
        )


if __name__ == "__main__":
    main()

"""Hugging Face's folders of a tiny BERT, made without transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import load_file, save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from bertjax.data.tokenizer import Tokenizer
from tests.golden import bert

TEXTS = ["A small grey heron waits.", "rain", "The river rises after the rain."]
TOKENIZER = Tokenizer.train(TEXTS * 2, vocab_size=70)
CLASSIFIER = {"classifier.weight": np.ones((3, 24), np.float32), "classifier.bias": np.arange(3, dtype=np.float32)}
LABELS = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}}
ANSWERS = {"qa_outputs.weight": np.ones((2, 24), np.float32), "qa_outputs.bias": np.zeros(2, np.float32)}


def golden_tensors(*without: str) -> dict[str, np.ndarray]:
    """Returns the golden weights under Hugging Face's names, but those that begin with one of `without`."""
    named = {k.removeprefix("weight/"): v for k, v in load_file(bert.PATH).items() if k.startswith("weight/")}
    return {name: value for name, value in named.items() if not name.startswith(without or "-")}


def bpe_tokenizer(directory: Path, specials: list[str]) -> None:
    """Writes the tokenizer.json of a byte-level BPE with these special pieces first."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 2, trainer)
    backend.save(str(directory / "tokenizer.json"))


def write(directory: Path, tensors: dict[str, np.ndarray], architecture: str | None, **config: Any) -> Path:
    """Writes a folder with these tensors, and the golden config changed by `config`; returns it."""
    directory.mkdir(parents=True)
    named = {} if architecture is None else {"architectures": [architecture]}
    values = {"model_type": "bert", "hidden_act": "gelu"} | bert.CONFIG | named | config
    (directory / "config.json").write_text(json.dumps(values))
    save_file(tensors, directory / "model.safetensors")
    TOKENIZER.save(directory)
    return directory

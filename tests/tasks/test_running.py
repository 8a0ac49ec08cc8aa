"""What a fine-tuning computes with; its steps are tested as runs, in tests/test_finetune.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import jax
import numpy as np
import pytest

from bertjax import sharding
from bertjax.config import MeshConfig, ModelConfig
from bertjax.model.kernels import choice
from bertjax.sharding import make_mesh
from bertjax.tasks import answers, choices, classification, running, tagging
from bertjax.tasks.batches import Choice, Features, make_batch
from tests.tasks.letters import Letters

MODEL = ModelConfig(width=128, heads=2, attention_dropout=0)


@pytest.fixture(autouse=True)
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes where it is: tests/model/test_triton.py."""
    monkeypatch.setattr(choice, "_obstacle_without_triton", lambda: "is not there")


def rows(*spans: list[int]) -> Features:
    ids = [np.ones(len(one), np.int32) for one in spans]
    packed = [np.array(one, np.int32) for one in spans] if max(map(max, spans)) > 1 else None
    return Features(ids, ids, {}, 0, spans=packed)


@pytest.mark.parametrize(("spans", "kernel"), [([1, 1], "cudnn"), ([1, 2], "xla")])
def test_what_computes_is_said_of_the_rows_there_are(
    spans: list[int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    features = rows([1, 1], spans)
    assert running.what_computes(MODEL, features, [64, 128], "bfloat16", mesh) == "attention by xla"
    monkeypatch.setattr(sharding, "device_of", lambda _: ("NVIDIA H100 80GB HBM3", "gpu"))
    assert running.what_computes(MODEL, features, [64, 128], "bfloat16", mesh) == f"attention by {kernel}"
    monkeypatch.setattr(sharding, "device_of", lambda _: ("TPU v5 lite", "tpu"))
    assert running.what_computes(MODEL, features, [64, 128], "bfloat16", mesh) == "attention by xla and splash"


class Told(Exception):
    """How many spans the encoder is told of."""


def told(*_: Any, most_spans: int, **__: Any) -> NoReturn:
    raise Told(most_spans)


def classified(model: Any, batch: dict[str, Any]) -> Any:
    ids, spans = batch["ids"], batch["spans"]
    return classification.SequenceClassifier.__call__(model, ids, ids, ids, spans)


@pytest.mark.parametrize("logits", [classified, answers.logits, tagging.logits])
def test_rows_of_one_span_are_said_to_be_that(logits: Callable[[Any, Any], Any]) -> None:
    batch = make_batch(rows([1, 1]), Choice(np.array([0]), 4), 1)
    with pytest.raises(Told, match=r"^1$"):
        logits(SimpleNamespace(encoder=told, pooling="cls"), batch)


def test_choices_are_as_many_spans() -> None:
    made = choices.features([choices.Example("a", ("b", "c", "bb"), "0", 0)], Letters(), 8)
    batch = make_batch(made, Choice(np.array([0]), 24), 1)
    assert batch["spans"].max() == 3
    with pytest.raises(Told, match=r"^3$"):
        choices.logits(SimpleNamespace(encoder=told), batch)  # type: ignore[arg-type]

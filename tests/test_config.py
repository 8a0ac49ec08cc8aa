from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from bertjax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    FinetuneConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    TaskDataConfig,
    TaskTrainConfig,
    TrainConfig,
)

GROUPS = [ModelConfig, DataConfig, OptimizerConfig, TrainConfig, CheckpointConfig, MeshConfig]

BAD_BUDGETS = ("", "0m", "30", "1.5h", "-5m", "30m1h", "30 minutes")
MISTAKES: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (ModelConfig, {"heads": 7}, r"heads=7 do not divide width=768; use heads=(6|8)"),
    (ModelConfig, {"layers": 0}, r"layers=0 is not greater than 0"),
    (ModelConfig, {"vocab_size": -1}, r"vocab_size=-1 is not greater than 0"),
    (ModelConfig, {"init_std": math.inf}, r"init_std=inf is not greater than 0"),
    (ModelConfig, {"dropout": 1.5}, r"dropout=1\.5 is not between 0 and 1"),
    (ModelConfig, {"attention_dropout": 1.0}, r"dropout of 1 leaves nothing"),
    (DataConfig, {"seq_len": 7}, r"seq_len=7 is too short; use at least 8"),
    (DataConfig, {"mask_rate": math.nan}, r"mask_rate=nan is not between 0 and 1"),
    (DataConfig, {"mask_token_share": 0.95}, r"mask_token_share \+ random_token_share = 1\.05 is more than 1"),
    (DataConfig, {"ngram_max": 0}, r"ngram_max=0 is not greater than 0"),
    (DataConfig, {"prefetch": 0}, r"prefetch=0 is not greater than 0"),
    (OptimizerConfig, {"peak_lr": math.nan}, r"peak_lr=nan is not greater than 0"),
    (OptimizerConfig, {"warmup_steps": -5}, r"warmup_steps=-5 is negative"),
    (OptimizerConfig, {"b2": 1.1}, r"b2=1\.1 is not between 0 and 1"),
    (TrainConfig, {"batch_size": 0}, r"batch_size=0 is not greater than 0"),
    (TrainConfig, {"seed": -1}, r"seed=-1 is negative"),
    *((TrainConfig, {"budget": text}, rf"budget='{text}' is not a time; write 30m") for text in BAD_BUDGETS),
    (CheckpointConfig, {"keep": 0}, r"keep=0 is not greater than 0"),
    (CheckpointConfig, {"keep_every": 0}, r"keep_every=0 is not greater than 0"),
    (MeshConfig, {"model": 0}, r"\(-1, 1, 0\): use sizes above 0, or -1"),
    (MeshConfig, {"model": -1}, r"\(-1, 1, -1\): only one of them can be -1"),
    (MeshConfig, {"processes": 2}, "coordinator=None, processes=2, process=None: all three go together"),
    (MeshConfig, {"coordinator": "h:1", "processes": 2}, "coordinator='h:1', processes=2, process=None: all three"),
    (MeshConfig, {"coordinator": "h", "processes": 2, "process": 0}, "coordinator='h' is not HOST:PORT"),
    (MeshConfig, {"coordinator": "h:1", "processes": 2, "process": 2}, "process=2 is not between 0 and processes=2"),
    (MeshConfig, {"heartbeat_seconds": 0}, "heartbeat_seconds=0"),
    (
        Config,
        {"train": TrainConfig(steps=9_000)},
        r"warmup_steps=10000 leaves nothing of train\.steps=9000; None takes",
    ),
    (TaskDataConfig, {"seq_len": 7}, r"seq_len=7 is too short; use at least 8"),
    (TaskDataConfig, {"examples_per_class": 0}, r"examples_per_class=0 is not greater than 0"),
    (TaskTrainConfig, {"epochs": 0}, r"epochs=0 is not greater than 0"),
    (TaskTrainConfig, {"seed": -1}, r"seed=-1 is negative"),
    (TaskTrainConfig, {"dropout": 1.0}, r"dropout=1\.0 is not"),
    (OptimizerConfig, {"decay_steps": 5}, r"decay_steps=5 belongs to schedule='stable'; schedule='linear'"),
    (
        Config,
        {
            "optimizer": OptimizerConfig(warmup_steps=6000, schedule="stable", decay_steps=5000),
            "train": TrainConfig(steps=10_000),
        },
        r"warmup_steps and decay_steps are 11000 together, more than train\.steps=10000; None takes",
    ),
    (Config, {"data": DataConfig(seq_len=1024)}, r"data\.seq_len=1024 is more than model\.max_positions=512"),
]


@pytest.mark.parametrize(("make", "fields", "message"), MISTAKES, ids=[str(fields) for _, fields, _ in MISTAKES])
def test_mistake_is_refused_with_its_value(make: Callable[..., Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**fields)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="peak_learning_rate"):
        OptimizerConfig(peak_learning_rate=1e-4)  # type: ignore[call-arg]


@pytest.mark.parametrize("group", [Config, *GROUPS, FinetuneConfig, TaskDataConfig, TaskTrainConfig])
def test_cannot_be_changed_after_the_checks(group: type[Any]) -> None:
    config = group()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)


def test_defaults_are_those_of_bert_base() -> None:
    """Devlin et al. 2019, section 3 and appendix A.2."""
    c = Config()
    assert (c.model.layers, c.model.width, c.model.heads, c.model.mlp_width) == (12, 768, 12, 3072)
    assert (c.model.dropout, c.model.attention_dropout, c.model.max_positions) == (0.1, 0.1, 512)
    assert (c.data.mask_rate, c.data.mask_token_share, c.data.random_token_share) == (0.15, 0.8, 0.1)
    assert (c.optimizer.peak_lr, c.optimizer.warmup_steps, c.optimizer.weight_decay) == (1e-4, 10_000, 0.01)
    assert (c.optimizer.b1, c.optimizer.b2) == (0.9, 0.999)
    assert (c.train.steps, c.train.batch_size, c.data.seq_len) == (1_000_000, 256, 128)


def test_only_what_leaves_the_curve_alone_is_free() -> None:
    """Data files are free by name, their content is not: a workdir records its fingerprint."""
    free = {f.name for group in GROUPS for f in dataclasses.fields(group) if f.metadata.get("free")}
    assert free == {
        *("unroll_layers", "path", "prefetch", "threads", "eval_every", "eval_rows", "log_every"),
        *("tensorboard", "wandb_project", "save_every", "keep", "keep_every", "data", "fsdp", "model", "slices"),
        *("attention", "norm", "remat", "microbatches", "cache", "coordinator", "processes", "process"),
        *("heartbeat_seconds", "profile_from", "profile_steps"),
    }


def test_a_budget_is_a_time() -> None:
    seconds = {"90s": 90, "30m": 1800, "2h": 7200, "1h30m": 5400, "1h0m1s": 3601}
    assert {text: TrainConfig(budget=text).budget_seconds for text in seconds} == seconds
    assert TrainConfig().budget_seconds == 0


def test_with_other_steps_warm_up_decay_and_phases_keep_their_shares() -> None:
    c = Config(
        optimizer=OptimizerConfig(warmup_steps=1000, schedule="stable", decay_steps=2000),
        train=TrainConfig(steps=10_000),
        phases=(Phase(2500, batch_size=8, data=DataConfig()), Phase(500, batch_size=4, data=DataConfig())),
    )
    fewer = c.with_steps(100)
    assert (fewer.train.steps, fewer.optimizer.warmup_steps, fewer.optimizer.decay_steps) == (100, 10, 20)
    assert [steps for steps, _ in fewer.by_phase()] == [range(70), range(70, 95), range(95, 100)]
    assert c.with_steps(10_000) == c
    assert Config(optimizer=OptimizerConfig(warmup_steps=None)).with_steps(7).optimizer.warmup_steps is None
    with pytest.raises(ValueError, match="steps=0 is not greater than 0"):
        c.with_steps(19)  # no step for the last phase


@pytest.mark.parametrize("auto", [True, False])
def test_layers_are_unrolled_as_asked_for_or_as_is_best(auto: bool) -> None:
    for asked, decided in [("auto", auto), (True, True), (False, False)]:
        c = ModelConfig(unroll_layers=asked)  # type: ignore[arg-type]
        assert c.unrolled(auto=auto).unroll_layers is decided

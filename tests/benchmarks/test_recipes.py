from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks import recipes
from bertjax import runs
from bertjax.config import Config
from bertjax.errors import UserError
from bertjax.training import budget

CONFIG = """
from bertjax.config import *


def get_config():
    return Config(
        model=ModelConfig(width=32, layers=1, heads=4, mlp_width=32, max_positions=32, family="{family}"),
        data=DataConfig(seq_len=32, mask_rate={mask_rate}, max_predictions=10),
    )
"""


@pytest.fixture
def small(corpus: Path, tmp_path: Path) -> recipes.Arguments:
    """Both recipes, tiny, on the stories."""
    for family, mask_rate in (("bert", 0.15), ("modernbert", 0.3)):
        (tmp_path / f"{family}.py").write_text(CONFIG.format(family=family, mask_rate=mask_rate))
    return recipes.Arguments(
        data=(str(corpus.parent / "stories.txt"),),
        configs=(str(tmp_path / "bert.py"), str(tmp_path / "modernbert.py")),
        vocab_size=100,
        batch_size=16,
        eval_every=4,
        eval_rows=16,
    )


def test_both_have_the_same_budget_and_leave_their_curves(
    small: recipes.Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = iter((0.125, 0.1))  # seconds a step
    monkeypatch.setattr(budget, "measure", lambda *_: budget.Speed(0.0, (next(speeds),), (0.0,), 0.0))
    monkeypatch.setattr(budget, "steps_within", lambda c, _, speed: int(c.train.budget_seconds / 120 / speed.steps[0]))
    found = recipes.compare(small, tmp_path)
    assert (found["classical"]["step"], found["modern"]["step"]) == (8, 10)
    configs = [runs.read_config(tmp_path / recipe, Config) for recipe in recipes.RECIPES]
    assert [c.train.budget for c in configs] == ["2m", "2m"]
    assert [c.data.mask_rate for c in configs] == [0.15, 0.3]
    assert [Path(c.data.paths[0]).name for c in configs] == ["pairs", "sentences"]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["recipe"], line["step"]) for line in lines] == [
        *(("classical", step) for step in (4, 8)),
        *(("modern", step) for step in (4, 8, 10)),
    ]
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["eval_mlm_loss"]) for row in rows] == [line["eval_mlm_loss"] for line in lines]
    for recipe, own in zip(recipes.RECIPES, ("pairs", "sentences"), strict=True):
        assert found[recipe][f"mlm_loss_on_{own}"] == pytest.approx(found[recipe]["eval_mlm_loss"], rel=1e-6)
    assert found["classical"]["mlm_loss_on_sentences"] != found["classical"]["mlm_loss_on_pairs"]
    assert lines[-1]["tokens"] > lines[-2]["tokens"] > 0


def test_mistakes_are_said(small: recipes.Arguments, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data names 1 corpora; name two"):
        recipes.compare(recipes.Arguments(data=(str(corpus),), configs=small.configs), tmp_path)
    with pytest.raises(UserError, match="budget='2' is not a time"):
        recipes.compare(recipes.Arguments(data=small.data, configs=small.configs, budget="2"), tmp_path)

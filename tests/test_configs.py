from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

CONFIGS = Path(__file__).parent.parent / "configs"
PAGES = sorted(CONFIGS.rglob("*.py"))
GROUPS = {"model", "data", "optimizer", "train", "checkpoint", "mesh", "phases"}

# Layers, width, heads, feed-forward width: Turc et al. 2019, table 1; Devlin et al. 2019, section 3.
SIZES = {
    "bert_tiny": (2, 128, 2, 512),
    "bert_mini": (4, 256, 4, 1024),
    "bert_small": (4, 512, 8, 2048),
    "bert_base": (12, 768, 12, 3072),
    "bert_large": (24, 1024, 16, 4096),
    "bert_large_lamb": (24, 1024, 16, 4096),
}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS).with_suffix(""))


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page_loads_and_cannot_be_changed_afterwards(path: Path) -> None:
    config = load(path).get_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train = None


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page_gives_the_command_that_runs_it(path: Path) -> None:
    page = load(path).__doc__ or ""
    script = "finetune.py" if path.parent.name == "finetune" else "train.py"
    assert f"python {script} --config={path.relative_to(CONFIGS.parent)}" in page


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=name)
def test_pretraining_has_the_groups_that_scripts_rely_on(path: Path) -> None:
    assert {field.name for field in dataclasses.fields(load(path).get_config())} == GROUPS


@pytest.mark.parametrize(("stem", "size"), SIZES.items(), ids=SIZES)
def test_sizes_are_those_of_the_papers(stem: str, size: tuple[int, int, int, int]) -> None:
    model = load(CONFIGS / f"{stem}.py").get_config().model
    assert (model.layers, model.width, model.heads, model.mlp_width) == size
    assert model.width // model.heads == 64
    assert model.vocab_size is None  # the tokenizer's


def test_large_batches_are_those_of_the_lamb_paper() -> None:
    """You et al. 2020: 32k rows of 128 positions for nine tenths of 15,625 steps, then of 512, warm-up over a fifth."""
    c = load(CONFIGS / "bert_large_lamb.py").get_config()
    assert (c.optimizer.kind, c.optimizer.peak_lr, c.optimizer.weight_decay) == ("lamb", 5e-3, 0.01)
    assert (c.train.steps, 5 * c.optimizer.warmup_steps) == (15_625, 15_625)
    (short, long), rows = c.by_phase(), 32 * 1024
    assert [(phase.train.batch_size, phase.data.seq_len) for _, phase in (short, long)] == [(rows, 128), (rows, 512)]
    assert len(long[0]) == 15_625 // 10

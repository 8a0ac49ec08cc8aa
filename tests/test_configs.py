from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import pytest

import train
from bertjax import pretrained, runs
from bertjax.config import CheckpointConfig, Config, MeshConfig
from bertjax.data.batches import full_batch
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.sharding import make_mesh
from bertjax.training.flops import flops_by_part
from tests.test_train import StopAfter, untimed

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
    "modern_base": (22, 768, 12, 1152),  # Warner et al. 2024, table 4
    "modern_mini": (4, 256, 4, 672),
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


@pytest.mark.parametrize("stem", ["modern_base", "modern_mini"])
def test_the_modern_recipe(stem: str) -> None:
    """Warner et al. 2024, section 3."""
    c = load(CONFIGS / f"{stem}.py").get_config()
    assert (c.model.family, c.model.global_every, c.model.local_window) == ("modernbert", 3, 128)
    assert (c.data.mask_rate, c.model.attention_dropout, c.model.dropout) == (0.3, 0, 0)
    assert c.optimizer.schedule == "stable"
    assert c.data.max_predictions >= c.data.mask_rate * c.data.seq_len  # none is left out for want of room


def test_the_two_minis_have_equal_blocks() -> None:
    ours, theirs = (load(CONFIGS / f"{stem}.py").get_config() for stem in ("modern_mini", "bert_mini"))
    modern, classical = (flops_by_part(c.model, 30522, full_batch(c.data, rows=1)) for c in (ours, theirs))
    assert modern.body + modern.attention == pytest.approx(classical.body + classical.attention, rel=0.02)
    assert (ours.train, ours.data.seq_len) == (theirs.train, theirs.data.seq_len)
    assert ours.optimizer.peak_lr == theirs.optimizer.peak_lr


@pytest.fixture(scope="session")
def sentences(corpus: Path) -> Path:
    """The stories as full sentences, without next-sentence pairs."""
    output, vocab = corpus.parent / "sentences", corpus / "tokenizer" / "vocab.txt"
    settings = PrepareConfig(str(output), vocab=str(vocab), seq_len=32, next_sentence=False, validation_share=0.1)
    prepare(settings, [corpus.parent / "stories.txt"])
    return output


@pytest.mark.parametrize("stem", ["modern_base", "modern_mini"])
def test_the_modern_recipe_trains_and_goes_on_where_it_stopped(
    stem: str, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c: Config = load(CONFIGS / f"{stem}.py").get_config()
    c = dataclasses.replace(
        c,
        model=dataclasses.replace(c.model, width=32, layers=4, heads=4, mlp_width=40, max_positions=32, local_window=8),
        data=dataclasses.replace(c.data, path=str(sentences), seq_len=32, max_predictions=10),
        optimizer=dataclasses.replace(c.optimizer, peak_lr=3e-3, warmup_steps=None, decay_steps=None),
        train=dataclasses.replace(c.train, steps=16, batch_size=16, eval_every=8, eval_rows=32, precision="float32"),
        checkpoint=CheckpointConfig(save_every=99),
    )
    train.run(c, tmp_path / "whole")
    monkeypatch.setattr(train, "StopRequest", StopAfter)
    for StopAfter.steps in (9, 99):
        train.run(c, tmp_path / "stopped")
    figures = untimed(tmp_path / "whole")
    assert untimed(tmp_path / "stopped") == figures
    early, late = (line for line in figures if "eval_loss" in line)
    assert late["eval_mlm_loss"] < early["eval_mlm_loss"]
    assert "eval_nsp_loss" not in late
    assert runs.read_config(tmp_path / "whole", Config).model.family == "modernbert"
    b = pretrained.read_blueprint(tmp_path / "whole")
    assert b.heads == ("masked_lm",)  # no pairs, nothing that they would teach
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert pretrained.read_params(tmp_path / "whole", b).keys() == {"encoder", "masked_lm"}

"""Every test runs on eight virtual CPU devices, so that meshes are real ones, and without broadcasting over ranks."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

import train
from bertjax.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig

# What one test has compiled, here or in a process of its own, the next one finds.
CACHE = tempfile.mkdtemp(prefix="bertjax-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ["BERTJAX_CACHE"] = CACHE
jax.config.update("jax_compilation_cache_dir", f"{CACHE}/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
# Slower code, compiled in two thirds of the time; processes that tests start do so, too.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + (
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# Before anything asks for devices: afterwards the number is fixed. Other platforms are for test_kernels_on_gpus.py.
PLATFORMS = os.environ.get("BERTJAX_TEST_PLATFORMS", "cpu")
jax.config.update("jax_platforms", PLATFORMS)
jax.config.update("jax_num_cpu_devices", 8)
if PLATFORMS == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # kernels are computed operation by operation; read when triton is imported
# `x_BSD + bias_D` is easily a mistake for `x_BSD + bias_S`: shapes are lined up in writing.
jax.config.update("jax_numpy_rank_promotion", "raise")


SUBJECTS = ["the old river", "a small boat", "our neighbour", "the tall tree", "a grey heron", "the miller"]
VERBS = ["follows", "carries", "watches", "meets", "leaves", "finds"]
OBJECTS = ["the bridge", "a quiet morning", "the far shore", "some bread", "the narrow road", "a bright lamp"]


def story(rng: random.Random) -> str:
    """Returns a document of a few sentences about one subject: there is a next sentence to be told from others."""
    subject = rng.choice(SUBJECTS)
    return "\n".join(
        f"{subject.capitalize()} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." for _ in range(rng.randint(3, 9))
    )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of a few hundred rows of 32 positions."""
    directory = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    (directory / "stories.txt").write_text("\n\n".join(story(rng) for _ in range(150)) + "\n")
    settings = PrepareConfig(str(directory / "prepared"), vocab_size=100, seq_len=32, validation_share=0.1)
    prepare(settings, [directory / "stories.txt"])
    return directory / "prepared"


@pytest.fixture(scope="session")
def config(corpus: Path) -> Config:
    """A run of a few seconds that learns something."""
    return Config(
        model=ModelConfig(width=32, layers=2, heads=4, mlp_width=64, max_positions=32),
        data=DataConfig(path=str(corpus), seq_len=32),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TrainConfig(steps=24, batch_size=16, eval_every=8, eval_rows=64),
        checkpoint=CheckpointConfig(save_every=5),
    )


@pytest.fixture(scope="session")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of that run, trained to its end without a stop."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train.run(config, workdir)
    return workdir

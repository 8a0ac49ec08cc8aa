"""The workdir's rule: a resumed run is the same run."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from bertjax import backend, runs
from bertjax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    FinetuneConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    TrainConfig,
)
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError

CONFIG = Config(model=ModelConfig(vocab_size=100))
FACTS = {"corpus": "abc"}


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["rain and sun"], vocab_size=64)


def test_config_comes_back_and_so_does_the_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    workdir = runs.open_workdir(tmp_path / "run", CONFIG, FACTS, tokenizer)
    assert runs.read_config(workdir, Config) == CONFIG
    assert runs.read_facts(workdir) == FACTS
    assert Tokenizer.load(workdir / "tokenizer").fingerprint == tokenizer.fingerprint


def test_what_does_not_bend_the_curve_may_change(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.open_workdir(tmp_path / "run", CONFIG, FACTS, tokenizer)
    other = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=2), checkpoint=CheckpointConfig(save_every=7))
    runs.open_workdir(tmp_path / "run", other, FACTS, tokenizer)
    assert runs.read_config(tmp_path / "run", Config) == other
    assert "checkpoint.save_every was 1000, now 7" in capsys.readouterr().err


def test_a_run_keeps_the_precision_it_found_when_it_began(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = dataclasses.replace(CONFIG, train=TrainConfig(precision="auto"))
    device = jax.devices()[0]
    monkeypatch.setattr(backend, "fastest_precision", lambda _: "bfloat16")
    begun = runs.with_precision(asked, tmp_path, device)
    assert begun.train.precision == "bfloat16"
    runs.open_workdir(tmp_path, begun, {}, tokenizer)
    monkeypatch.setattr(backend, "fastest_precision", lambda _: "float32")
    assert runs.with_precision(asked, tmp_path, device) == begun
    assert runs.with_precision(CONFIG, tmp_path, device) is CONFIG


@pytest.mark.parametrize(
    ("config", "facts", "message"),
    [
        (dataclasses.replace(CONFIG, optimizer=OptimizerConfig(peak_lr=1.0)), FACTS, "peak_lr was 0.0001, now 1.0"),
        (CONFIG, {"corpus": "xyz"}, "corpus was 'abc', now 'xyz'"),
    ],
)
def test_what_bends_the_curve_is_refused(
    tmp_path: Path, tokenizer: Tokenizer, config: Config, facts: dict[str, str], message: str
) -> None:
    runs.open_workdir(tmp_path / "run", CONFIG, FACTS, tokenizer)
    with pytest.raises(UserError, match=message):
        runs.open_workdir(tmp_path / "run", config, facts, tokenizer)
    assert runs.read_config(tmp_path / "run", Config) == CONFIG


def test_a_config_with_an_unknown_key_a_refused_value_or_no_json_is_an_error(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = runs.open_workdir(tmp_path / "run", CONFIG, FACTS, tokenizer) / "config.json"
    record = json.loads(path.read_text())
    for key, value, message in [("widht", 1, "unknown keys"), ("width", 7, "heads=12 do not divide width=7")]:
        changed = json.loads(json.dumps(record))
        changed["config"]["model"][key] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            runs.read_config(tmp_path / "run", Config)
    path.write_text("{")
    with pytest.raises(UserError, match="is not the config of a run"):
        runs.read_config(tmp_path / "run", Config)
    with pytest.raises(UserError, match="does not exist"):
        runs.read_config(tmp_path, Config)


def test_what_an_older_config_lacks_was_as_it_is_by_default(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = runs.open_workdir(tmp_path / "run", FinetuneConfig(), FACTS, tokenizer) / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["data"]["choices"], record["config"]["train"]["mask_rate"], record["config"]["sweep"]
    path.write_text(json.dumps(record))
    runs.open_workdir(tmp_path / "run", FinetuneConfig(), FACTS, tokenizer)
    assert runs.read_config(tmp_path / "run", FinetuneConfig) == FinetuneConfig()

    phased = dataclasses.replace(CONFIG, phases=(Phase(10, 8, DataConfig()),))
    path = runs.open_workdir(tmp_path / "phased", phased, FACTS, tokenizer) / "config.json"
    record = json.loads(path.read_text())
    del record["config"]["phases"][0]["data"]["eval_mask_rate"], record["config"]["data"]["eval_mask_rate"]
    path.write_text(json.dumps(record))
    runs.open_workdir(tmp_path / "phased", phased, FACTS, tokenizer)


def test_a_run_of_another_kind_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    runs.open_workdir(tmp_path, CONFIG, FACTS, tokenizer)
    with pytest.raises(UserError, match=r"holds a run of another kind, which has \['model', 'phases'\]"):
        runs.open_workdir(tmp_path, FinetuneConfig(), FACTS, tokenizer)


def test_of_a_fact_the_free_fields_may_change_and_new_ones_be_added(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = ModelConfig(vocab_size=100)
    path = runs.open_workdir(tmp_path, CONFIG, {"model": model}, tokenizer) / "config.json"
    record = json.loads(path.read_text())
    del record["facts"]["model"]["gelu"]
    path.write_text(json.dumps(record))
    runs.open_workdir(tmp_path, CONFIG, {"model": dataclasses.replace(model, remat="block")}, tokenizer)
    with pytest.raises(UserError, match=r"model\.gelu was 'exact', now 'tanh'"):
        runs.open_workdir(tmp_path, CONFIG, {"model": dataclasses.replace(model, gelu="tanh")}, tokenizer)


def test_a_tokenizer_that_is_not_the_runs_own_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    workdir = runs.open_workdir(tmp_path / "run", CONFIG, FACTS, tokenizer)
    runs.check_tokenizer(workdir)
    other = Tokenizer.train(["snow and ice"], vocab_size=tokenizer.vocab_size)
    assert other.vocab_size <= tokenizer.vocab_size
    other.save(workdir / "tokenizer")
    runs.open_workdir(workdir, CONFIG, FACTS, tokenizer)  # going on does not make it the run's own
    with pytest.raises(UserError, match=r"run/tokenizer/tokenizer.json is not the file that the run was made with"):
        runs.check_tokenizer(workdir)
    path = workdir / "config.json"
    record = json.loads(path.read_text())
    del record["tokenizer"]  # as older ones are
    path.write_text(json.dumps(record))
    runs.check_tokenizer(workdir)


def test_a_workdir_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    with runs.lock(tmp_path / "run"):
        held_by = f"another run, process {os.getpid()} on .*, is writing to {tmp_path / 'run'}"
        with pytest.raises(UserError, match=held_by), runs.lock(tmp_path / "run"):
            pass
    with runs.lock(tmp_path / "run"):
        pass


def test_a_killed_run_lets_go_of_its_workdir(tmp_path: Path) -> None:
    hold = (
        "import sys, time\nfrom bertjax import runs\nwith runs.lock(sys.argv[1]): print(1, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        with pytest.raises(UserError, match=f"process {process.pid} on"), runs.lock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with runs.lock(tmp_path):
        pass

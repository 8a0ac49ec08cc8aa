"""Everything that is measured on a GPU, made small, on a CPU."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bertjax.data.tokenizer import SPECIAL_PIECES

ROOT = Path(__file__).parents[2]
WORDS = ("bees", "fly", "home", "over", "the", "old", "river", "slowly", "again")


def table(path: Path, header: str, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


def make_inputs(folder: Path) -> list[str]:
    """Returns the arguments TEXT, VOCAB, TASKS."""
    rng = random.Random(0)

    def sentence() -> str:
        return " ".join(rng.choices(WORDS, k=6)) + "."

    documents = ["\n".join(sentence() for _ in range(6)) for _ in range(200)]
    (folder / "text.txt").write_text("\n\n".join(documents))
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, ".", *WORDS]))
    for split in ("train", "dev"):
        pairs = [f"{sentence()}\t{sentence()}" for _ in range(40)]
        table(
            folder / "STS-B" / f"{split}.tsv",
            "sentence1\tsentence2\tscore",
            [f"{pair}\t{rng.random() * 5}" for pair in pairs],
        )
    return [str(folder / "text.txt"), str(folder / "vocab.txt"), str(folder)]


@pytest.mark.parity
def test_one_command_measures_everything_and_goes_on_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "out"
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--small", str(out), *make_inputs(tmp_path)]
    environment = os.environ | {"PYTHON": sys.executable, "BERTJAX_CACHE": str(tmp_path / "cache")}
    subprocess.run([*command[:2], "--only", "prep*", *command[2:]], env=environment, capture_output=True, check=True)
    assert [path.name for path in out.glob("*.json")] == ["prepare.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = ("step-base-32", "step-base-32-packed", "ablation", "inference")
    figures = {name: json.loads((out / f"{name}.json").read_text()) for name in expected}
    kernels = [json.loads((out / f"kernels-base-32{rows}.json").read_text()) for rows in ("", "-without", "-packed")]
    assert figures["step-base-32"]["ratio_best"] > 0
    assert figures["step-base-32-packed"]["pairs"] == 8
    assert figures["ablation"]["without"] == "gather"
    assert [(row["without"], row["attention"]) for row in kernels] == [("kernel", "xla")] * 3
    assert json.loads((out / "profile.json").read_text())["program"] == "jit_train_step"
    assert json.loads((out / "pretraining.json").read_text())["mlm_loss"] > 0
    assert "spearman" in json.loads((out / "finetuning-stsb.json").read_text())["figures"]["validation"]
    assert (out / "runs" / "stsb" / "report.html").is_file()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "==" not in again.stderr  # nothing is done twice


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [(["--only", "speed"], "text.txt", "error: --only='speed' picks nothing"), ([], "gone.txt", "error: there is no ")],
)
def test_what_it_cannot_do_is_an_error(tmp_path: Path, options: list[str], text: str, message: str) -> None:
    _, *others = make_inputs(tmp_path)
    script = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--small", *options]
    done = subprocess.run(
        [*script, str(tmp_path / "out"), str(tmp_path / text), *others], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr[: len(message)]) == (2, message)


def test_it_says_how_it_is_used() -> None:
    done = subprocess.run(["bash", str(ROOT / "benchmarks" / "gpu.sh"), "OUT"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "benchmarks/gpu.sh [--small] [--only PATTERN] [--budget TIME] OUT TEXT VOCAB TASKS\n",
    )

"""What is the modern recipe worth beside the classical one, when both have the same time?

    python -m benchmarks.recipes --data TEXT... [--budget=30m --workdir=DIR]
    python -m benchmarks.recipes --data PAIRS SENTENCES ...

Trains configs/bert_mini.py on next-sentence pairs and configs/modern_mini.py on full sentences of one text, one after
the other, each for the same budget with as many steps as fit into it; batch size, learning rate and precision are
equal. `--data` names text, which is prepared in both ways with one vocabulary, or two corpora of it that `bertjax
prepare` wrote, with next sentences and without.

Prints a JSON line for each evaluation, with seconds and held-out masked-LM loss at 15 %, and at the end one with the
last losses; the same points are in curves.csv in the workdir. Each recipe is evaluated on held-out rows as it reads
them, so the last models are also evaluated on the other's rows.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

import train
from benchmarks.result import print_result
from bertjax import backend, command_line, pretrained, runs, sharding
from bertjax.config import Config
from bertjax.data.batches import evaluation_batches
from bertjax.data.corpus import open_corpus
from bertjax.data.mixture import open_mixture
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError, reported
from bertjax.training import step
from bertjax.training.metrics import read_metrics
from bertjax.training.pretraining import make_pretraining

RECIPES, ROWS = ("classical", "modern"), ("pairs", "sentences")
COLUMNS = ("recipe", "step", "seconds", "tokens", "eval_mlm_loss", "eval_mlm_accuracy")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Trains by two recipes for the same time."""

    data: tuple[str, ...]
    """Text, or two prepared corpora of it: with next-sentence pairs and without."""
    budget: str = "2m"
    """Time of each run, evaluations and checkpoints included."""
    workdir: str | None = None
    """Folder to keep the runs, the corpora and curves.csv in; without it they are deleted."""
    configs: tuple[str, str] = ("configs/bert_mini.py", "configs/modern_mini.py")
    """The classical and the modern one."""
    vocab_size: int = 8000
    """Of text that is to be prepared."""
    batch_size: int = 32
    """Rows of a step."""
    peak_lr: float = 1e-3
    """Of both; the warm-up and the modern recipe's fall are a tenth of the steps."""
    eval_every: int = 100
    """Steps between evaluations."""
    eval_rows: int = 512
    """Held-out rows of an evaluation."""


def corpora_of(a: Arguments, seq_len: int, folder: Path) -> tuple[str, str]:
    """Returns the corpus with next-sentence pairs and the one without, prepared here if they are not yet."""
    if all((Path(path) / "manifest.json").is_file() for path in a.data):
        if len(a.data) != len(RECIPES):
            raise UserError(f"--data names {len(a.data)} corpora; name two, with next-sentence pairs and without")
        first, second = (open_corpus(path) for path in a.data)
        if not first.next_sentence or second.next_sentence:
            raise UserError(f"--data={a.data}: the first is to have next-sentence pairs, and the second is not")
        if first.tokenizer.fingerprint != second.tokenizer.fingerprint:
            raise UserError(f"--data={a.data} have different vocabularies; prepare one with the other's")
        return a.data[0], a.data[1]
    pairs, sentences = folder / "pairs", folder / "sentences"
    texts = [Path(path) for path in a.data]
    ways = {
        pairs: PrepareConfig(str(pairs), vocab_size=a.vocab_size, seq_len=seq_len),
        sentences: PrepareConfig(
            str(sentences), vocab=str(pairs / "tokenizer" / "vocab.txt"), seq_len=seq_len, next_sentence=False
        ),
    }
    for settings in ways.values():
        prepare(settings, texts)  # which refuses what was made of other texts
    return str(pairs), str(sentences)


def configured(a: Arguments, path: str) -> Config:
    """Returns a recipe with the settings that both share. Raises: UserError on a value that is refused."""
    _, c = command_line.config_file(Config, [f"--config={path}"])
    try:
        return dataclasses.replace(
            c,
            optimizer=dataclasses.replace(c.optimizer, peak_lr=a.peak_lr, warmup_steps=None, decay_steps=None),
            train=dataclasses.replace(
                c.train,
                budget=a.budget,
                batch_size=a.batch_size,
                eval_every=a.eval_every,
                eval_rows=a.eval_rows,
            ),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def curve(recipe: str, workdir: Path) -> list[dict[str, Any]]:
    """Returns the evaluations of a run, with the tokens that were read until then."""
    points, tokens = [], 0
    for line in read_metrics(workdir):
        tokens = line.get("tokens", tokens)
        if "eval_mlm_loss" in line:
            points.append({name: (line | {"recipe": recipe, "tokens": tokens})[name] for name in COLUMNS})
    return points


def masked_lm_loss_on(workdir: Path, path: str) -> float:
    """Returns the held-out masked-LM loss of a run's last model on any corpus of its vocabulary."""
    c = runs.read_config(workdir, Config)
    corpus = open_mixture(dataclasses.replace(c.data, path=path))
    mesh = sharding.make_mesh(c.mesh)
    with jax.set_mesh(mesh):
        b = pretrained.read_blueprint(workdir)
        eval_step = make_pretraining(c, next_sentence="next_sentence" in b.heads).eval_step
        params = pretrained.read_params(workdir, b)
        batches = evaluation_batches(corpus, c.data, batch_size=c.train.batch_size, limit=c.train.eval_rows)
        return step.total([eval_step(params, step.to_mesh(batch, mesh)) for batch in batches])["mlm_loss"]


def compare(a: Arguments, folder: Path) -> dict[str, Any]:
    """Trains both, prints and writes their curves; returns the last figures. Raises: UserError on a mistake."""
    configs = [configured(a, path) for path in a.configs]
    paths = corpora_of(a, configs[0].data.seq_len, folder)
    points: list[dict[str, Any]] = []
    for recipe, c, path in zip(RECIPES, configs, paths, strict=True):
        train.run(dataclasses.replace(c, data=dataclasses.replace(c.data, path=path)), folder / recipe)
        points += curve(recipe, folder / recipe)
    for point in points:
        print(json.dumps({"benchmark": "recipes", **point}))
    write_csv(folder / "curves.csv", points)
    return {recipe: last(points, recipe) | crossed(folder / recipe, paths) for recipe in RECIPES}


def last(points: Sequence[dict[str, Any]], recipe: str) -> dict[str, Any]:
    """Returns the figures of a recipe's last evaluation."""
    return [point for point in points if point["recipe"] == recipe][-1]


def crossed(workdir: Path, paths: Sequence[str]) -> dict[str, float]:
    """Returns the loss of a run's last model on the rows of each recipe."""
    return {f"mlm_loss_on_{rows}": masked_lm_loss_on(workdir, path) for rows, path in zip(ROWS, paths, strict=True)}


def write_csv(path: Path, points: Sequence[dict[str, Any]]) -> None:
    """Writes the curves, a row for each point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(points)


def main() -> None:
    """The command."""
    backend.start()
    a = tyro.cli(Arguments, description=__doc__)
    with reported(), contextlib.ExitStack() as stack:
        folder = Path(a.workdir or stack.enter_context(tempfile.TemporaryDirectory()))
        print_result("recipes", dataclasses.asdict(a) | compare(a, folder), "jax")


if __name__ == "__main__":
    main()

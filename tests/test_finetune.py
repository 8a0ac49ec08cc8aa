"""A whole fine-tuning: learned, evaluated, predicted, resumed, asked."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import bertjax
import finetune
from bertjax import cli, pretrained
from bertjax.config import (
    FinetuneConfig,
    ModelConfig,
    OptimizerConfig,
    Pooling,
    TaskDataConfig,
    TaskTrainConfig,
)
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model.assembly import Assembly, Blueprint
from bertjax.model.params import params_of
from bertjax.report import FINAL
from bertjax.sharding import make_mesh
from bertjax.tasks import running, text_examples
from bertjax.tasks.classification import SequenceClassifier
from bertjax.tasks.sweep import Read
from bertjax.training import metrics, programs
from bertjax.training.checkpoints import best_step
from bertjax.training.metrics import TIMING, read_metrics
from bertjax.training.optimizers import learning_rate
from tests.conftest import OBJECTS, SUBJECTS, VERBS
from tests.interop import folders


def write(path: Path, rows: int, seed: int, *, labelled: bool = True) -> Path:
    """Writes sentences whose label is whether they speak of water."""
    rng = random.Random(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(["text", "label"] if labelled else ["text"])
        for _ in range(rows):
            subject, verb, thing = rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(OBJECTS)
            label = ["wet"] if {subject, thing} & {"the old river", "a small boat", "the far shore"} else ["dry"]
            table.writerow([f"{subject} {verb} {thing}.", *(label if labelled else [])])
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("task")
    write(directory / "train.tsv", 200, 1)
    write(directory / "validation.tsv", 50, 2)
    write(directory / "test.tsv", 20, 3, labelled=False)
    return directory


@pytest.fixture(scope="module")
def task_config(finished: Path, files: Path) -> FinetuneConfig:
    return FinetuneConfig(
        init_from=str(finished),
        data=TaskDataConfig(
            train=str(files / "train.tsv"),
            validation=str(files / "validation.tsv"),
            test=str(files / "test.tsv"),
            seq_len=32,
        ),
        optimizer=OptimizerConfig(peak_lr=3e-3, warmup_steps=None),
        train=TaskTrainConfig(epochs=6, batch_size=16),
    )


@pytest.fixture(scope="module")
def tuned(task_config: FinetuneConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    return workdir, finetune.run(task_config, workdir)


def test_it_starts_from_a_folder_of_hugging_faces(
    task_config: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors("cls.seq", "bert.pooler"), "BertForMaskedLM")
    c = dataclasses.replace(
        task_config,
        init_from=str(folder),
        data=dataclasses.replace(task_config.data, seq_len=14, test=None),
        optimizer=OptimizerConfig(peak_lr=1e-9, warmup_steps=None),
        train=TaskTrainConfig(epochs=1, batch_size=64),
    )
    finetune.run(c, tmp_path / "run")
    assert "has no pooler: it starts from random weights" in capsys.readouterr().err
    np.testing.assert_allclose(
        bertjax.load(tmp_path / "run").embed("rain"), bertjax.load(folder).embed("rain"), atol=1e-5
    )


def test_it_says_how_far_it_is(
    task_config: FinetuneConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "PROGRESS_EVERY", 0)
    short = dataclasses.replace(task_config.train, epochs=1, batch_size=64)
    finetune.run(dataclasses.replace(task_config, train=short), tmp_path / "run")
    told = capsys.readouterr().err
    for path in (task_config.data.train, task_config.data.validation, task_config.data.test):
        assert told.count(f"reading {path}\n") == 1
    assert told.count("validation: 50 of 50 rows read\n") == 1  # the only evaluation is the best, and not read again
    assert "test: 20 of 20 rows read\n" in told


def test_mfu_is_told_where_the_peak_is_known(
    task_config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "peak_flops", lambda: 1e6)
    short = dataclasses.replace(task_config.train, epochs=1, batch_size=64)
    finetune.run(dataclasses.replace(task_config, train=short), tmp_path / "run")
    steps = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    model = bertjax.load(tmp_path / "run").config
    body = model.layers * (24 * model.width**2 + 12 * model.width * model.mlp_width)
    for line in steps:
        flop = line["mfu"] * 1e6 / line["tokens_per_second"]  # of a token
        attended = (flop - body) / (12 * model.layers * model.width)
        assert 4 < attended < 32  # tokens of the other text that each one sees


def predictions(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_it_learns_and_keeps_the_best(tuned: tuple[Path, dict[str, float]]) -> None:
    workdir, figures = tuned
    assert figures["accuracy"] > 0.9 > figures["majority_accuracy"]
    evaluations = [line for line in read_metrics(workdir) if "eval_accuracy" in line]
    assert [line["epoch"] for line in evaluations] == [1, 2, 3, 4, 5, 6]
    best = max(line["eval_accuracy"] for line in evaluations)
    assert figures["accuracy"] == best
    assert {"f1", "precision", "recall", "matthews", "bag_of_words_accuracy"} <= figures.keys()
    assert next(line for line in evaluations if line["step"] == best_step(workdir, "accuracy"))["eval_accuracy"] == best


def test_runs_of_a_sweep_are_compiled_once(
    task_config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[jax.stages.Lowered] = []
    numbers: list[int] = []
    losses, rates = [], []
    compile_it = jax.stages.Lowered.compile

    def counted(self: jax.stages.Lowered) -> jax.stages.Compiled:
        compiled.append(self)
        return compile_it(self)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    monkeypatch.setattr(programs, "_kept", type(programs._kept)())
    for seed, epochs, peak_lr in ((3, 1, 1e-3), (4, 2, 2e-3)):
        short = dataclasses.replace(task_config.train, epochs=epochs, batch_size=64, seed=seed)
        optimizer = OptimizerConfig(peak_lr=peak_lr, warmup_steps=None)
        workdir = tmp_path / f"run{len(numbers)}"
        finetune.run(dataclasses.replace(task_config, train=short, optimizer=optimizer), workdir)
        jax.clear_caches()  # as a sweep does
        numbers.append(len(compiled))
        lines = [line for line in read_metrics(workdir) if "loss" in line]
        losses.append([line["loss"] for line in lines])
        rates.append([line["learning_rate"] for line in lines])
        schedule = learning_rate(optimizer, epochs * 4)
        np.testing.assert_allclose(rates[-1], [schedule(line["step"] - 1) for line in lines], rtol=1e-6)
    assert numbers[0] == numbers[1] > 0
    assert losses[0][0] != losses[1][0]
    assert rates[0] != rates[1]


def test_predictions_are_those_of_the_loaded_model(tuned: tuple[Path, dict[str, float]], files: Path) -> None:
    workdir, figures = tuned
    rows = predictions(workdir / "predictions-validation.tsv")
    assert sum(row["prediction"] == row["label"] for row in rows) / 50 == pytest.approx(figures["accuracy"])
    texts = [line.split("\t")[0] for line in (files / "test.tsv").read_text().splitlines()[1:]]
    answers = bertjax.load(workdir).classify(texts)
    for row, answer in zip(predictions(workdir / "predictions-test.tsv"), answers, strict=True):
        assert row["prediction"] == answer["label"]
        assert float(row["probability_wet"]) == pytest.approx(answer["probabilities"]["wet"], abs=1e-4)


def test_a_run_cut_short_goes_on_to_the_same_end(
    task_config: FinetuneConfig, tuned: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    save = finetune.Checkpoints.save

    def interrupted(self: finetune.Checkpoints, *arguments: object, **named: object) -> None:
        save(self, *arguments, **named)  # type: ignore[arg-type]
        saves.append(arguments[1])
        if len(saves) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(finetune.Checkpoints, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(task_config, tmp_path / "run")
    figures = finetune.run(task_config, tmp_path / "run")
    assert figures == tuned[1]
    assert (tmp_path / "run" / FINAL).read_bytes() == (tuned[0] / FINAL).read_bytes()
    assert untimed(tmp_path / "run") == untimed(tuned[0])


def test_it_stops_when_nothing_gets_better_and_stays_so(
    task_config: FinetuneConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def configured(patience: int) -> FinetuneConfig:
        train = dataclasses.replace(task_config.train, metric="recall", patience=patience)
        still = dataclasses.replace(task_config.optimizer, peak_lr=1e-9)
        return dataclasses.replace(task_config, optimizer=still, train=train)

    steps = iter(range(1, 100))

    def requested(self: finetune.StopRequest) -> bool:
        self.signum = signal.SIGINT if next(steps) == 20 else None  # within the second epoch
        return self.signum is not None

    with monkeypatch.context() as patch:
        patch.setattr(finetune.StopRequest, "requested", property(requested))
        with pytest.raises(KeyboardInterrupt):
            finetune.run(configured(1), tmp_path / "run")
    assert epochs(tmp_path / "run") == [1]
    finetune.run(configured(1), tmp_path / "run")
    assert "stopped: evaluations without a better recall: 1" in capsys.readouterr().err
    assert epochs(tmp_path / "run") == [1, 2]
    finetune.run(configured(1), tmp_path / "run")
    assert epochs(tmp_path / "run") == [1, 2]
    finetune.run(configured(2), tmp_path / "run")
    assert epochs(tmp_path / "run") == [1, 2, 3]


def test_it_starts_from_a_fine_tuned_model_with_a_new_classifier(
    task_config: FinetuneConfig, tuned: tuple[Path, dict[str, float]], files: Path, tmp_path: Path
) -> None:
    """As RTE, MRPC and STS-B are learned from a model of MNLI."""
    scores = scored(files, tmp_path)
    c = dataclasses.replace(
        task_config,
        task="regression",
        init_from=str(tuned[0]),
        data=dataclasses.replace(task_config.data, train=scores["train"], validation=scores["validation"], test=None),
        optimizer=OptimizerConfig(peak_lr=1e-9, warmup_steps=None),
        train=TaskTrainConfig(epochs=1, batch_size=64),
    )
    finetune.run(c, tmp_path / "run")
    before, after = (bertjax.load(path).params for path in (tuned[0], tmp_path / "run"))
    for name in ("encoder", "pooler"):
        for old, new in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True):
            np.testing.assert_allclose(old, new, atol=1e-6)
    assert after["classifier"]["kernel"].shape == (32, 1)


def test_modernberts_transform_begins_as_the_masked_lm_heads(
    task_config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = ModelConfig(family="modernbert", vocab_size=70, width=16, layers=1, heads=2, mlp_width=32, max_positions=64)
    blueprint = Blueprint(tiny, ("masked_lm",))

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return SequenceClassifier(tiny, 2, pooling="mean", rngs=rngs)

    with jax.set_mesh(make_mesh(task_config.mesh)):
        loaded = params_of(Assembly(blueprint, rngs=nnx.Rngs(7)))
        loaded["masked_lm"]["norm"]["scale"] *= 3
        monkeypatch.setattr(pretrained, "read_params", lambda *_: loaded)
        params = finetune.first_params(task_config, blueprint, make_model)
    assert np.unique(params["transform"]["norm"]["scale"]) == 3
    np.testing.assert_array_equal(params["transform"]["dense"]["kernel"], loaded["masked_lm"]["dense"]["kernel"])
    assert params["classifier"]["kernel"].shape == (16, 2)


def test_the_flag_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.py").write_text("from bertjax.config import FinetuneConfig\nget_config = FinetuneConfig\n")
    asked = []

    def run(c: FinetuneConfig, workdir: Path, read: Read) -> dict[str, float]:
        assert callable(read)
        asked.append((c.optimizer.peak_lr, c.train.batch_size, c.train.epochs, c.train.seed))
        workdir.mkdir()
        (workdir / "config.json").write_text('{"bertjax": "", "config": {}, "facts": {"metric": "f1"}}')
        return {"f1": 0.5}

    words = f"--sweep --config={tmp_path}/c.py --workdir={tmp_path}/s --init_from=x --sweep.peak_lr 1e-4 3e-5"
    more = "--sweep.seed 4 --sweep.batch_size 8 --sweep.epochs 1 2"
    monkeypatch.setattr("sys.argv", ["finetune.py", *words.split(), *more.split()])
    monkeypatch.setattr(finetune, "run", run)
    finetune.main()
    assert asked == [(lr, 8, epochs, 4) for epochs in (1, 2) for lr in (1e-4, 3e-5)]


def scored(files: Path, directory: Path) -> dict[str, str]:
    """Writes the labelled files with scores for labels."""
    scores = {}
    for name in ("train", "validation"):
        text = (files / f"{name}.tsv").read_text()
        (directory / f"{name}.tsv").write_text(text.replace("\twet", "\t4.0").replace("\tdry", "\t1.0"))
        scores[name] = str(directory / f"{name}.tsv")
    return scores


def epochs(workdir: Path) -> list[int]:
    return [line["epoch"] for line in read_metrics(workdir) if "eval_loss" in line]


def test_frozen_weights_end_as_they_began(task_config: FinetuneConfig, finished: Path, tmp_path: Path) -> None:
    train = dataclasses.replace(task_config.train, epochs=1, frozen_layers=1)
    finetune.run(dataclasses.replace(task_config, train=train), tmp_path / "run")
    before, after = (bertjax.load(path).params["encoder"] for path in (finished, tmp_path / "run"))
    for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
        layers = 1 if "blocks" in str(path) else None
        assert np.asarray(old)[:layers].tobytes() == np.asarray(new)[:layers].tobytes(), path
        assert layers is None or not np.array_equal(old[1:], new[1:]), path


@pytest.mark.parametrize("pooling", ["mean", "weighted", "layers"])
def test_a_mean_of_hidden_states_learns_and_is_loaded_as_such(
    task_config: FinetuneConfig, files: Path, tmp_path: Path, pooling: Pooling
) -> None:
    train = dataclasses.replace(task_config.train, pooling=pooling, epochs=4, mask_rate=0.1)
    figures = finetune.run(dataclasses.replace(task_config, train=train), tmp_path / "run")
    assert figures["accuracy"] > 0.8 > figures["majority_accuracy"]
    rows = predictions(tmp_path / "run/predictions-validation.tsv")
    texts = [line.split("\t")[0] for line in (files / "validation.tsv").read_text().splitlines()[1:]]
    answers = bertjax.load(tmp_path / "run").classify(texts)
    assert [answer["label"] for answer in answers] == [row["prediction"] for row in rows]


def untimed(workdir: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(workdir)]


def test_few_examples_of_each_class_are_drawn_by_the_seed(task_config: FinetuneConfig) -> None:
    data = dataclasses.replace(task_config.data, examples_per_class=5)
    columns = text_examples.Columns()
    examples = text_examples.read_examples(data.train, columns)
    few, again, other = (text_examples.few_of_each(examples, data, seed) for seed in (0, 0, 1))
    assert few == again != other
    assert sorted(example.label or "" for example in few) == ["dry"] * 5 + ["wet"] * 5
    with pytest.raises(UserError, match="examples_per_class=5000, but"):
        text_examples.few_of_each(examples, dataclasses.replace(data, examples_per_class=5000), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": ""}, "init_from is not set"),
        ({"init_from": "nowhere"}, "does not exist; is nowhere the workdir of a run"),
        ({"data": {"label": "labels"}}, "no column 'labels'"),
        ({"data": {"train": "nowhere.tsv"}}, "nowhere.tsv"),
        ({"data": {"seq_len": 64}}, "more than the 32 positions"),
        (
            {"train": {"metric": "acuracy"}},
            "metric='acuracy' is no figure of classification; use one of accuracy",
        ),
        ({"train": {"frozen_layers": 3}}, "frozen_layers=3, but .* has 2 layers"),
        ({"train": {"batch_size": 20}}, "does not divide over 8 data shards"),
        ({"optimizer": {"warmup_steps": 9999}}, "warmup_steps=9999 leaves nothing of the .* steps of train.epochs="),
        ({"task": "tagging", "train": {"pooling": "mean"}}, "pooling='mean', but tagging has no such"),
    ],
)
def test_mistakes_are_said(
    task_config: FinetuneConfig, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    values = {
        name: dataclasses.replace(getattr(task_config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    with pytest.raises((UserError, OSError), match=message):
        finetune.run(dataclasses.replace(task_config, **values), tmp_path / "run")  # type: ignore[arg-type]


def test_a_tokenizer_of_another_model_is_said(task_config: FinetuneConfig, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "mixed")
    folders.TOKENIZER.save(tmp_path / "mixed" / "tokenizer")
    size = folders.TOKENIZER.vocab_size
    path = tmp_path / "mixed" / "config.json"
    path.write_text(path.read_text().replace('"vocab_size": 100', f'"vocab_size": {size - 1}'))
    with pytest.raises(UserError, match=rf"tokenizer has {size} entries, the model {size - 1}: they are"):
        finetune.run(dataclasses.replace(task_config, init_from=str(tmp_path / "mixed")), tmp_path / "run")


def test_a_smaller_tokenizer_that_is_not_the_models_is_said(
    task_config: FinetuneConfig, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "mixed")
    Tokenizer.train(["rain and snow"] * 2, vocab_size=100).save(tmp_path / "mixed" / "tokenizer")
    with pytest.raises(UserError, match=r"tokenizer.json is not the file that the run was made with"):
        finetune.run(dataclasses.replace(task_config, init_from=str(tmp_path / "mixed")), tmp_path / "run")


def test_an_unknown_label_is_named_with_its_line(task_config: FinetuneConfig, files: Path, tmp_path: Path) -> None:
    path = tmp_path / "odd.tsv"
    path.write_text((files / "validation.tsv").read_text() + "the miller meets some bread.\tdamp\n")
    wrong = dataclasses.replace(task_config, data=dataclasses.replace(task_config.data, validation=str(path)))
    with pytest.raises(UserError, match=r"odd.tsv:52: unknown label 'damp'; known are 'dry', 'wet'"):
        finetune.run(wrong, tmp_path / "run")


def test_scores_are_learned_and_handed_in_as_glue_takes_them(
    task_config: FinetuneConfig, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scored(files, tmp_path)
    also = tmp_path / "elsewhere.tsv"
    also.write_text(Path(scores["validation"]).read_text())
    data = dataclasses.replace(
        task_config.data,
        train=scores["train"],
        validation=scores["validation"],
        also=(str(also),),
        submission="STS-B",
    )
    figures = finetune.run(dataclasses.replace(task_config, task="regression", data=data), tmp_path / "run")
    assert figures["pearson"] > 0.8
    assert figures["loss"] < figures["mean_score_loss"]
    assert figures["spearman_elsewhere"] == figures["spearman"]
    final = json.loads((tmp_path / "run" / FINAL).read_text())["figures"]
    assert list(final) == ["validation", "elsewhere"]
    assert final["elsewhere"].items() <= final["validation"].items() <= figures.items()
    assert "<th>elsewhere</th>" in (tmp_path / "run" / "report.html").read_text()
    rows = predictions(tmp_path / "run" / "glue" / "STS-B.tsv")
    written = predictions(tmp_path / "run" / "predictions-test.tsv")
    assert [list(row) for row in rows] == [["index", "prediction"]] * 20
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in written]
    model = bertjax.load(tmp_path / "run")
    with pytest.raises(UserError, match="gives scores, no classes"):
        model.classify("a text")
    texts = [line.split("\t")[0] for line in (files / "test.tsv").read_text().splitlines()[1:]]
    assert model.score(texts) == pytest.approx([float(row["prediction"]) for row in written], abs=1e-3)
    capsys.readouterr()
    cli.Predict("score", (texts[0],), str(tmp_path / "run")).run()
    assert json.loads(capsys.readouterr().out) == {
        "text": texts[0],
        "score": pytest.approx(float(written[0]["prediction"]), abs=1e-3),
    }
    with pytest.raises(UserError, match="gives no scores: fine-tune it for regression"):
        bertjax.load(task_config.init_from).score("a text")

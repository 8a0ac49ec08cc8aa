r"""Fine-tunes a pretrained encoder to classify texts, or pairs of texts.

    python finetune.py --config=configs/finetune/sst2.py --workdir=runs/sst2 --init_from=runs/quickstart \
        --data.train=train.tsv --data.validation=dev.tsv [--data.test=test.tsv] [--group.field=value ...]

The same command again goes on from the newest checkpoint. The checkpoint that does best on the validation file is kept
and predicts: the workdir holds its predictions, and `bertjax predict classify --model WORKDIR` uses it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from bertjax import backend, command_line, pretrained, report, runs, sharding
from bertjax.config import FinetuneConfig, ModelConfig, TaskDataConfig
from bertjax.data import installed_docs
from bertjax.data.batches import prefetched
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError, reported
from bertjax.model.assembly import CLASSIFIER_HEADS, Blueprint
from bertjax.model.encoder import check_mesh
from bertjax.tasks import batches, classification
from bertjax.tasks.bag_of_words import bag_of_words_baseline
from bertjax.tasks.classification import METRIC
from bertjax.tasks.metrics import classification_metrics, majority_baseline
from bertjax.training import optimizers, step
from bertjax.training.checkpoints import Checkpoints, best_step, load_params
from bertjax.training.metrics import MetricsLog
from bertjax.training.signals import StopRequest


class Part(NamedTuple):
    """A file of examples, as written and as the model reads it."""

    examples: list[classification.Example]
    features: batches.Features


class Task(NamedTuple):
    """What there is to learn, and to do then."""

    labels: tuple[str, ...]
    train: Part
    validation: Part
    test: Part | None


def run(c: FinetuneConfig, workdir: str | Path) -> dict[str, float]:
    """Fine-tunes, from where the workdir stands; returns the best checkpoint's figures on the validation file.

    Raises: UserError on a mistake in the config, the files or the workdir; KeyboardInterrupt or SystemExit, the state
    saved, after SIGINT or SIGTERM.
    """
    # 1. What there is to compute on, to start from and to learn.
    mesh = sharding.make_mesh(c.mesh)
    sharding.check_batch(c.train.batch_size, mesh)
    blueprint = pretrained_blueprint(c)
    model_config = blueprint.config
    check_mesh(model_config, mesh)
    tokenizer = pretrained.read_tokenizer(c.init_from, blueprint)
    task = read_task(c, tokenizer)
    facts = {
        "task": "classification",
        "labels": list(task.labels),
        "model": dataclasses.asdict(model_config),
        "heads": list(CLASSIFIER_HEADS[c.train.pooling]),
        "examples": fingerprint(task),
    }
    workdir = runs.open_workdir(workdir, c, facts, tokenizer)
    baselines = baselines_of(task, model_config)

    # 2. What a step reads: examples of about one length, a pure function of the step.
    per_epoch = -(-len(task.train.examples) // c.train.batch_size)
    steps = c.train.epochs * per_epoch
    batch_of = training_batches(task.train.features, c, mesh)

    with (
        jax.set_mesh(mesh),
        Checkpoints(workdir, c.checkpoint, best=METRIC) as checkpoints,
        StopRequest() as stop,
    ):
        # 3. What a step does.
        def make_model(rngs: nnx.Rngs) -> classification.SequenceClassifier:
            return classification.SequenceClassifier(model_config, len(task.labels), pooling=c.train.pooling, rngs=rngs)

        loss, precision = classification.classification_loss, c.train.precision
        optimizer = optimizers.make_optimizer(c.optimizer, steps)
        schedule = optimizers.learning_rate(c.optimizer, steps)
        train_step = step.make_train_step(make_model, loss, optimizer, schedule, seed=c.train.seed, precision=precision)
        logits_of = step.make_forward(make_model, classification.logits, precision)

        def log_probabilities(params: nnx.State, part: Part) -> np.ndarray:
            found_NC = np.zeros((len(part.examples), len(task.labels)))
            for choice in batches.evaluation_batches(part.features.lengths_N, c.train.batch_size, c.data.seq_len):
                batch = step.to_mesh(batches.make_batch(part.features, choice, c.train.batch_size), mesh)
                found_NC[choice.indices] = jax.device_get(logits_of(params, batch))[: len(choice.indices)]
            return found_NC - np.logaddexp.reduce(found_NC, axis=1, keepdims=True)

        def evaluate(params: nnx.State) -> dict[str, float]:
            return figures_of(log_probabilities(params, task.validation), task) | baselines

        # 4. Where it starts: the newest good checkpoint, or the pretrained encoder under a new head.
        abstract = step.abstract_state(make_model, optimizer)
        restored = checkpoints.restore(abstract, mesh)
        state, counters = restored or (step.first_state(first_params(c, blueprint, make_model), optimizer), {})
        start = int(state.step)
        say_what_runs(task, c, mesh, start, steps)

        # 5. The loop, as in train.py; evaluations come with a checkpoint, so that the best one can be kept.
        eval_at = {round(per_epoch * (k + 1) / c.train.evals_per_epoch) for k in range(c.train.evals_per_epoch)}
        with MetricsLog(workdir, c.train, steps=steps, resumed_at=start, counters=counters) as log:
            for done, batch in zip(range(start + 1, steps + 1), prefetched(batch_of, range(start, steps)), strict=True):
                state, figures = train_step(state, batch)
                epoch, within = divmod(done - 1, per_epoch)
                log.train(done, figures, epoch=epoch + 1)
                if (within + 1) in eval_at:
                    held_out = evaluate(state.params)
                    log.evaluation(done, held_out, epoch=epoch + 1)
                    checkpoints.save(state, done, log.counters(), figures={METRIC: held_out[METRIC]})
                if stop.requested:
                    log.flush()
                    checkpoints.save(state, done, log.counters())
                    break
    stop.leave_if_requested()

    # 6. What it came to: the best checkpoint's figures and predictions.
    with jax.set_mesh(mesh):
        best = best_step(workdir, METRIC)
        params = load_params(workdir, abstract.params, step=best)
        found = {name: log_probabilities(params, part) for name, part in to_predict(task).items()}
    for name, part in to_predict(task).items():
        path = workdir / f"predictions-{name}.tsv"
        classification.write_predictions(path, part.examples, np.exp(found[name]), task.labels)
    final = figures_of(found["validation"], task) | baselines
    print(f"best checkpoint: step {best}, {METRIC} {final[METRIC]:.4f}", file=sys.stderr)
    print(f"the report is {report.write_report(workdir)}", file=sys.stderr)
    return final


def pretrained_blueprint(c: FinetuneConfig) -> Blueprint:
    """Returns what the folder to start from holds, with this run's dropout."""
    if not c.init_from:
        raise UserError("init_from is not set; use --init_from=FOLDER of a pretraining run, or of Hugging Face's")
    blueprint = pretrained.read_blueprint(c.init_from)
    model = blueprint.config
    if c.data.seq_len > model.max_positions:
        raise UserError(
            f"data.seq_len={c.data.seq_len} is more than the {model.max_positions} positions of {c.init_from};"
            f" use --data.seq_len={model.max_positions}"
        )
    if c.data.second is not None and model.segments < 2:
        raise UserError(f"data.second={c.data.second!r}, but {c.init_from} has one segment, as RoBERTa, and no pairs")
    if c.train.dropout is None:
        return blueprint
    return dataclasses.replace(blueprint, config=dataclasses.replace(model, dropout=c.train.dropout))


def read_task(c: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Returns the examples of the files, or of the installed documentation, and their features."""
    data = c.data
    if data.train == installed_docs.NAME:
        files = installed_docs.classification_files()
        data = dataclasses.replace(data, train=files["train"], validation=files["validation"], test=files["test"])
    columns = classification.Columns(data.text, data.second, data.label)
    train = few_of_each(classification.read_examples(data.train, columns), data, c.train.seed)
    labels = classification.label_names(train)

    def part(examples: list[classification.Example], name: str) -> Part:
        features = classification.features(examples, tokenizer, data.seq_len, labels)
        if features.truncated:
            print(
                f"{name}: {features.truncated} of {len(examples)} examples cut to {data.seq_len} tokens",
                file=sys.stderr,
            )
        return Part(examples, features)

    validation = classification.read_examples(data.validation, columns, labels)
    test = data.test and part(classification.read_examples(data.test, columns, labels, label_required=False), "test")
    return Task(labels, part(train, "train"), part(validation, "validation"), test or None)


def few_of_each(
    examples: list[classification.Example], data: TaskDataConfig, seed: int
) -> list[classification.Example]:
    """Returns `examples_per_class` examples of each label, in the order of the file; all if it is None."""
    if data.examples_per_class is None:
        return examples
    shuffled = np.random.default_rng(seed).permutation(len(examples))
    kept: list[int] = []
    for label in sorted({example.label or "" for example in examples}):
        of_label = [i for i in shuffled if examples[i].label == label]
        if len(of_label) < data.examples_per_class:
            raise UserError(
                f"data.examples_per_class={data.examples_per_class}, but {data.train} has {len(of_label)} of {label!r}"
            )
        kept += of_label[: data.examples_per_class]
    return [examples[i] for i in sorted(kept)]


def training_batches(
    features: batches.Features, c: FinetuneConfig, mesh: jax.sharding.Mesh
) -> Callable[[int], dict[str, jax.Array]]:
    """Returns batch(step), steps counted from 0, on the mesh."""

    @functools.lru_cache(maxsize=2)  # the threads that make batches are at most one epoch ahead
    def order(epoch: int) -> list[batches.Choice]:
        return batches.epoch_batches(
            features.lengths_N, c.train.batch_size, c.data.seq_len, seed=c.train.seed, epoch=epoch
        )

    def batch(s: int) -> dict[str, jax.Array]:
        epoch, place = divmod(s, -(-len(features.ids) // c.train.batch_size))
        return step.to_mesh(batches.make_batch(features, order(epoch)[place], c.train.batch_size), mesh)

    return batch


def first_params(c: FinetuneConfig, blueprint: Blueprint, make_model: step.MakeModel) -> nnx.State:
    """Returns a new head's weights, and the pretrained ones under it unless the run starts from scratch.

    A model without a pooler, such as Hugging Face's BertForMaskedLM, gets a new one, and a line says so.
    """
    params = step.fresh_params(make_model, c.train.seed)
    if not c.train.from_scratch:
        loaded = pretrained.read_params(c.init_from, blueprint)
        params["encoder"] = loaded["encoder"]
        if c.train.pooling == "cls" and "pooler" in blueprint.heads:
            params["pooler"] = loaded["pooler"]
        elif c.train.pooling == "cls":
            print(f"{c.init_from} has no pooler: it starts from random weights", file=sys.stderr)
    return params


def to_predict(task: Task) -> dict[str, Part]:
    """Returns the files that predictions are written for."""
    return {"validation": task.validation} | ({} if task.test is None else {"test": task.test})


def figures_of(log_probabilities_NC: np.ndarray, task: Task) -> dict[str, float]:
    """Returns the loss (nats) and the figures of the likeliest labels of the validation file."""
    labels_N = task.validation.features.targets["labels"]
    loss = -float(np.take_along_axis(log_probabilities_NC, labels_N[:, None], axis=1).mean())
    return {"loss": loss} | classification_metrics(labels_N, log_probabilities_NC.argmax(axis=1), len(task.labels))


def baselines_of(task: Task, model_config: ModelConfig) -> dict[str, float]:
    """Returns the accuracies of always guessing the most frequent label, and of counting tokens."""
    train, held_out = task.train.features, task.validation.features
    train_labels_N, labels_N = train.targets["labels"], held_out.targets["labels"]
    entries = model_config.vocab_size or 0
    counted = bag_of_words_baseline(train.ids, train_labels_N, held_out.ids, labels_N, len(task.labels), entries)
    return {"majority_accuracy": majority_baseline(train_labels_N, labels_N), "bag_of_words_accuracy": counted}


def fingerprint(task: Task) -> str:
    """Returns a hash of what is learned and evaluated: a resumed run has to have the same."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (task.train, task.validation):
        for array in (*part.features.ids, *part.features.segments, part.features.targets["labels"]):
            digest.update(array.tobytes())
    return digest.hexdigest()


def say_what_runs(task: Task, c: FinetuneConfig, mesh: jax.sharding.Mesh, start: int, steps: int) -> None:
    """Prints the first log line: where, what, how much."""
    begin = "random weights" if c.train.from_scratch else c.init_from
    print(
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}, {c.train.precision}; from {begin};"
        f" {len(task.labels)} labels, {len(task.train.examples)} training examples, {len(task.validation.examples)} to"
        f" validate; " + (f"going on from step {start} of {steps}" if start else f"{steps} steps"),
        file=sys.stderr,
    )


def main() -> None:
    """The command."""
    backend.start()
    c, workdir = command_line.parse(FinetuneConfig, __doc__ or "")
    with reported():
        run(c, workdir)


if __name__ == "__main__":
    main()

r"""Fine-tunes a pretrained encoder: to label or to score texts or pairs of texts, to tag tokens, to find answers.

    python finetune.py --config=configs/finetune/sst2.py --workdir=runs/sst2 --init_from=runs/quickstart \
        --data.train=train.tsv --data.validation=dev.tsv [--data.test=test.tsv] [--sweep] [--group.field=value ...]

The same command again goes on from the newest checkpoint. The checkpoint that does best on the validation file is kept
and predicts: the workdir holds its predictions, and `bertjax predict classify --model WORKDIR` uses it.

With --sweep there is a run for each combination of the values of --sweep.peak_lr, --sweep.batch_size, --sweep.epochs
and --sweep.seed, each in a folder of the workdir. The same command again goes on with what is not finished.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bertjax import backend, command_line, hosts, pretrained, report, runs, sharding, storage
from bertjax.config import FinetuneConfig, TaskDataConfig
from bertjax.data import installed_docs
from bertjax.data.batches import prefetched
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError, reported
from bertjax.model.assembly import OF_TEXTS, Blueprint, classifier_heads
from bertjax.model.encoder import check_mesh
from bertjax.model.params import Params
from bertjax.tasks import answers, batches, choices, classification, multilabel, regression, running, tagging
from bertjax.tasks.sweep import Read, read_once, sweep
from bertjax.tasks.task import Chosen, Outputs, Task, files_of, row_length
from bertjax.training import optimizers, step
from bertjax.training.checkpoints import Checkpoints, best_step, load_params
from bertjax.training.flops import encoder_flops
from bertjax.training.metrics import MetricsLog
from bertjax.training.patience import Waiting
from bertjax.training.signals import StopRequest

FEW_LAYERS = 6
"""Up to so many blocks are compiled one by one, which is faster on a CPU and compiles as quickly (docs/log.md)."""

TASKS: dict[str, Callable[[TaskDataConfig, Tokenizer, int], Task]] = {
    "classification": classification.make_task,
    "multilabel": multilabel.make_task,
    "regression": regression.make_task,
    "tagging": tagging.make_task,
    "answers": answers.make_task,
    "choice": choices.make_task,
}


def run(c: FinetuneConfig, workdir: str | Path, read: Read | None = None) -> dict[str, float]:
    """Fine-tunes, from where the workdir stands; returns the best checkpoint's figures on the validation file.

    Those of the files in `data.also` are there, too. `read` stands for `read_task`, as a sweep's does.

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
    task = (read or read_task)(c, tokenizer)
    metric = metric_of(c, task)
    facts = {
        "task": c.task,
        "metric": metric,
        "labels": list(task.labels),
        "model": model_config,
        "heads": list(classifier_heads(model_config, c.task, c.train.pooling)),
        "examples": fingerprint(task),
    }

    # 2. What a step reads: examples of about one length, a pure function of the step.
    train = task.parts["train"].features
    per_epoch = -(-len(train.ids) // c.train.batch_size)
    steps = c.train.epochs * per_epoch
    check_schedule(c, steps)
    padded = batches.fitting_lengths(train.lengths_N, row_length(c.data))
    batch_of = running.training_batches(train, padded, c, tokenizer, mesh)

    with storage.opened(workdir) as folder, runs.lock(folder.files), jax.set_mesh(mesh):
        c = runs.with_precision(c, folder.files, mesh.devices.flat[0])
        runs.open_workdir(folder.files, c, facts, tokenizer)

        # 3. What a step does.
        compiled_config = model_config.unrolled(auto=model_config.layers <= FEW_LAYERS)

        def make_model(rngs: nnx.Rngs) -> nnx.Module:
            return task.make_model(compiled_config, c.train.pooling, rngs)

        schedule = optimizers.learning_rate(c.optimizer, steps)
        optimizer = running.make_optimizer(c, schedule)
        train_step = running.make_train_step(make_model, task.loss, np.asarray(schedule(np.arange(steps))), c, mesh)
        outputs_of = running.make_outputs(make_model, task.outputs, padded, c, mesh)

        def outputs(params: Params, name: str) -> list[np.ndarray]:
            return outputs_of(params, name, task.parts[name].features)

        def evaluate(found: Outputs) -> dict[str, float]:
            part = task.parts["validation"]
            chosen = task.choose(part, found)
            return task.figures(part, found, chosen) | dict(chosen) | dict(task.baselines)

        with Checkpoints(folder, c.checkpoint, best=metric) as checkpoints, StopRequest() as stop:
            # 4. Where it starts: the newest good checkpoint, or the pretrained encoder under a new head.
            abstract = step.abstract_state(make_model, optimizer)
            restored = checkpoints.restore(abstract, mesh)
            state, counters = restored or (step.first_state(first_params(c, blueprint, make_model), optimizer), {})
            start, waiting = int(state.step), Waiting(**counters.get("waiting", {}))
            last = start if waiting.is_over(c.train.patience) else steps
            best_outputs: dict[int, Outputs] = {}  # by their step; none before this process has found a best
            computed = running.what_computes(compiled_config, train, padded, c.train.precision, mesh)
            say_what_runs(task, c, mesh, computed, start, steps)
            remove_final(folder, goes_on=start < last)

            # 5. The loop, as in train.py; evaluations come with a checkpoint, so that the best one can be kept.
            eval_at = evaluation_steps(per_epoch, c.train.evals_per_epoch)
            with MetricsLog(folder, c.train, steps=steps, resumed_at=start, counters=counters) as log:
                log.flops_per_token = sum(encoder_flops(model_config, train.lengths_N))
                coming = prefetched(batch_of, range(start, last))
                for done, batch in zip(range(start + 1, last + 1), coming, strict=True):
                    state, on_device = train_step(state, batch, done - 1)
                    epoch, within = divmod(done - 1, per_epoch)
                    log.train(done, on_device, epoch=epoch + 1)
                    leaving = stop.agreed()
                    if (within + 1) in eval_at:
                        validated = outputs(state.params, "validation")
                        figures = evaluate(validated)
                        log.evaluation(done, figures, epoch=epoch + 1)
                        waiting = waiting.after(figures[metric])
                        if waiting.evaluations == 0:
                            best_outputs = {done: validated}
                        checkpoints.save(state, done, log.counters() | {"waiting": waiting._asdict()}, figures=figures)
                    if leaving:
                        log.flush()
                        checkpoints.save(state, done, log.counters() | {"waiting": waiting._asdict()})
                        break
                    if waiting.is_over(c.train.patience):
                        hosts.say(f"stopped: evaluations without a better {metric}: {waiting.evaluations}")
                        break
        stop.leave_if_requested()

        # 6. What it came to: the best checkpoint's figures and predictions.
        best = best_step(folder.path, metric)
        params = load_params(folder.path, abstract.params, step=best)
        found = {"validation": best_outputs[best]} if best in best_outputs else {}
        found |= {name: outputs(params, name) for name in task.parts if name not in {"train", *found}}
        chosen = task.choose(task.parts["validation"], found["validation"])
        final = figures_of(task, found, chosen)
        for name, of_file in final.items():
            hosts.say(f"best checkpoint: step {best}, {name} {metric} {of_file[metric]:.4f}")
        write_results(task, found, chosen, folder, c.data.submission, {"step": best, "figures": final})
        return in_one(final)


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
    if c.task not in OF_TEXTS and c.train.pooling != "cls":
        raise UserError(f"train.pooling={c.train.pooling!r}, but {c.task} has no such vectors of texts; leave it out")
    if c.train.frozen_layers is not None and c.train.frozen_layers > model.layers:
        raise UserError(f"train.frozen_layers={c.train.frozen_layers}, but {c.init_from} has {model.layers} layers")
    if c.train.dropout is None:
        return blueprint
    return dataclasses.replace(blueprint, config=dataclasses.replace(model, dropout=c.train.dropout))


def read_task(c: FinetuneConfig, tokenizer: Tokenizer) -> Task:
    """Returns the task of the config's files, or of the installed documentation."""
    data = c.data
    if data.train == installed_docs.NAME:
        hosts.say(f"reading {data.train}")
        files = installed_docs.classification_files()
        data = dataclasses.replace(data, train=files["train"], validation=files["validation"], test=files["test"])
    for path in files_of(data).values():
        hosts.say(f"reading {path}")
    return TASKS[c.task](data, tokenizer, c.train.seed)


def check_schedule(c: FinetuneConfig, steps: int) -> None:
    """Raises UserError if the learning rate would need more steps than there are."""
    try:
        c.optimizer.check_fits(steps, f"the {steps} steps of train.epochs={c.train.epochs}")
    except ValueError as error:
        raise UserError(str(error)) from error


def evaluation_steps(per_epoch: int, evaluations: int) -> set[int]:
    """Returns after which steps of an epoch, counted from 1, there is an evaluation; the last is one."""
    return {round(per_epoch * (k + 1) / evaluations) for k in range(evaluations)}


def first_params(c: FinetuneConfig, blueprint: Blueprint, make_model: step.MakeModel) -> Params:
    """Returns a new head's weights, and the pretrained ones under it unless the run starts from scratch.

    A model without a pooler, such as Hugging Face's BertForMaskedLM, gets a new one, and a line says so. ModernBERT's
    transform begins as that of the masked-LM head, as in Hugging Face's classes.
    """
    params = step.fresh_params(make_model, c.train.seed)
    if not c.train.from_scratch:
        loaded = pretrained.read_params(c.init_from, blueprint)
        params["encoder"] = loaded["encoder"]
        if "pooler" in params and "pooler" in blueprint.heads:
            params["pooler"] = loaded["pooler"]
        elif "pooler" in params:
            hosts.say(f"{c.init_from} has no pooler: it starts from random weights")
        pretrained_transform = loaded.get("transform", loaded.get("masked_lm"))
        if "transform" in params and pretrained_transform is not None:
            params["transform"] = {name: pretrained_transform[name] for name in params["transform"]}
    return params


def metric_of(c: FinetuneConfig, task: Task) -> str:
    """Returns the name of the figure that chooses the checkpoint."""
    metric = c.train.metric or task.metrics[0]
    if metric not in task.metrics:
        raise UserError(f"train.metric={metric!r} is no figure of {c.task}; use one of {', '.join(task.metrics)}")
    return metric


def figures_of(task: Task, found: Mapping[str, Outputs], chosen: Chosen) -> dict[str, dict[str, float]]:
    """Returns the figures of the validation file, with its baselines, and of those to evaluate, by name."""
    names = ["validation", *sorted(found.keys() - {"validation", "test"})]
    figures = {name: task.figures(task.parts[name], found[name], chosen) for name in names}
    figures["validation"] |= dict(chosen) | dict(task.baselines)
    return figures


def in_one(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the figures of all files, each with the name of its file behind unless that is the validation file."""
    return {
        figure if name == "validation" else f"{figure}_{name}": value
        for name, of_file in figures.items()
        for figure, value in of_file.items()
    }


def write_results(
    task: Task,
    found: Mapping[str, Outputs],
    chosen: Chosen,
    folder: storage.Folder,
    submission: str | None,
    final: Mapping[str, Any],
) -> None:
    """Writes predictions, final figures and report; of several processes the first does, and the others wait for it."""
    if hosts.is_first():
        write_predictions(task, found, chosen, folder.files, submission)
        runs.write_json(folder.files / report.FINAL, final)
        hosts.say(f"the report is {folder.path / report.write_report(folder.files).name}")
    hosts.wait_for_all("the report is written")


def remove_final(folder: storage.Folder, *, goes_on: bool) -> None:
    """Removes the final figures of a run that was at its end, and is not any more."""
    if goes_on and hosts.is_first():
        (folder.files / report.FINAL).unlink(missing_ok=True)


def write_predictions(
    task: Task, found: Mapping[str, Outputs], chosen: Chosen, workdir: Path, submission: str | None
) -> None:
    """Writes predictions-NAME of each file, and GLUE's submission: the first two columns of that of the test."""
    for name, outputs in found.items():
        path = task.write(workdir / f"predictions-{name}", task.parts[name], outputs, chosen)
        if name == "test" and submission:
            (workdir / "glue").mkdir(exist_ok=True)
            rows = path.read_text(encoding="utf-8").split("\n")
            text = "\n".join("\t".join(row.split("\t")[:2]) for row in rows)
            (workdir / "glue" / f"{submission}.tsv").write_text(text, encoding="utf-8")


def fingerprint(task: Task) -> str:
    """Returns a hash of what is learned and evaluated: a resumed run has to have the same."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (task.parts["train"], task.parts["validation"]):
        features = part.features
        of_tokens = [array for target in features.token_targets.values() for array in target]
        for array in (*features.ids, *features.segments, *features.targets.values(), *of_tokens):
            digest.update(array.tobytes())
    return digest.hexdigest()


def say_what_runs(
    task: Task, c: FinetuneConfig, mesh: jax.sharding.Mesh, computed: str, start: int, steps: int
) -> None:
    """Prints the first log line: where, what, how much."""
    train, validation = (len(task.parts[name].examples) for name in ("train", "validation"))
    begin = "random weights" if c.train.from_scratch else c.init_from
    hosts.say(
        f"{mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}, {c.train.precision},"
        f" {computed}; from {begin}; {len(task.labels)} labels, {train} training examples, {validation}"
        f" to validate; " + (f"going on from step {start} of {steps}" if start else f"{steps} steps")
    )


def main() -> None:
    """The command."""
    backend.start()
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--sweep", action="store_true")
    flag, rest = flags.parse_known_args()
    c, workdir = command_line.parse(FinetuneConfig, __doc__ or "", rest)
    with reported(), hosts.joined(c.mesh):
        if flag.sweep:
            sweep(c, workdir, functools.partial(run, read=read_once(read_task)))
        else:
            run(c, workdir)


if __name__ == "__main__":
    main()

"""Pretrains a BERT encoder on masked words and next sentences.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart [--group.field=value ...]

The same command again goes on from the newest checkpoint. A run is a pure function of its config, its data and the
step: the batch, the masks and the dropout of step s follow from the seed and s alone, so nothing but the state has to
be saved, and a run that was killed ends with the very weights of one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bertjax import backend, command_line, hosts, pretrained, report, runs, sharding, storage
from bertjax.config import Config, ModelConfig
from bertjax.data import batches as data
from bertjax.data.mixture import Mixture, check_together, open_mixture
from bertjax.errors import UserError, reported
from bertjax.interop.extension import check_extends, extend
from bertjax.model import kernels
from bertjax.model.assembly import WITHOUT_PAIRS
from bertjax.model.encoder import check_mesh
from bertjax.model.params import Params
from bertjax.training import budget, programs, step
from bertjax.training.checkpoints import Checkpoints
from bertjax.training.flops import flops_per_token
from bertjax.training.metrics import MetricsLog, last_evaluation
from bertjax.training.pretraining import make_pretraining
from bertjax.training.profiling import traced
from bertjax.training.signals import StopRequest


class Phase(NamedTuple):
    """A part of the run; most runs have one."""

    steps: range
    """Counted from 0."""
    config: Config
    corpus: Mixture
    seed: int
    """Of the order of the rows and of the masks."""


def run(c: Config, workdir: str | Path) -> dict[str, float]:
    """Trains to the last step, from where the workdir stands; returns the last held-out figures.

    Raises: UserError on a mistake in the config, the data or the workdir; KeyboardInterrupt or SystemExit, the state
    saved, after SIGINT or SIGTERM.
    """
    # 1. What there is to compute on, and what to read. Everything that can be wrong is found out before the first step.
    began, mesh = time.perf_counter(), sharding.make_mesh(c.mesh)
    corpora = open_corpora(c)
    for _, part in c.by_phase():
        sharding.check_batch(part.train.batch_size, mesh, microbatches=part.train.microbatches)

    with storage.opened(workdir) as folder, runs.lock(folder.files), jax.set_mesh(mesh):
        c = with_vocabulary(with_pretrained_model(c, corpora[0], folder.files), corpora[0])
        check_mesh(c.model, mesh)
        c = runs.with_precision(c, folder.files, mesh.devices.flat[0])
        say_where_it_runs(c, [attention_of(phase, mesh) for phase in make_phases(c, corpora)], mesh)
        if c.train.budget is not None:
            c = within_budget(c, corpora, mesh, folder, began)
        phases = make_phases(c, corpora)
        facts: dict[str, Any] = {"corpus": " ".join(corpus.fingerprint for corpus in corpora)}
        if not corpora[0].next_sentence:
            facts["heads"] = WITHOUT_PAIRS  # else those of BERT
        runs.open_workdir(folder.files, c, facts, corpora[0].tokenizer)

        with Checkpoints(folder, c.checkpoint) as checkpoints, StopRequest() as stop:
            # 2. Where it starts: the newest good checkpoint, or weights that are born sharded.
            make_model, optimizer, _, _ = make_pretraining(c, next_sentence=corpora[0].next_sentence)
            restored = checkpoints.restore(step.abstract_state(make_model, optimizer), mesh)
            state, counters = restored or (
                step.first_state(first_params(c, corpora[0], make_model), optimizer),
                {},
            )
            start = int(state.step)
            say_what_runs(c, phases, state, start)

            # 3. What it does, phase by phase.
            with MetricsLog(folder, c.train, steps=c.train.steps, resumed_at=start, counters=counters) as log:
                for phase in (phase for phase in phases if start < phase.steps.stop):
                    begin = max(start, phase.steps.start)
                    state, leaving = train(phase, begin, state, mesh, checkpoints, log, stop, folder)
                    if leaving:
                        break

        # 4. What it came to.
        stop.leave_if_requested()
        if hosts.is_first():
            hosts.say(f"the report is {folder.path / report.write_report(folder.files).name}")
        folder.share("the report is written")
        return last_evaluation(folder.files)


def train(
    phase: Phase,
    start: int,
    state: step.TrainState,
    mesh: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    log: MetricsLog,
    stop: StopRequest,
    folder: storage.Folder,
) -> tuple[step.TrainState, bool]:
    """Trains from step `start` to the end of a phase; returns the state, and whether to leave before that."""
    steps, c, corpus, _ = phase
    batch_of, send, train_step, eval_batch, held_out = make_work(phase, mesh)
    baselines = data.unigram_baselines(held_out, corpus.token_counts)
    log.flops_per_token = flops_per_token(c.model, corpus.tokenizer.vocab_size, batch_of(0))

    def evaluate(params: Params) -> dict[str, float]:
        means = step.total([eval_batch(params, batch) for batch in held_out])
        return held_out_figures(means, held_out) | baselines

    # The loop. Batches are made and sent ahead, figures are read one step late: the device never waits.
    places = range(start - steps.start, len(steps))
    coming = data.prefetched(send, places, threads=c.data.threads, ahead=c.data.prefetch)
    numbered = zip(range(start + 1, steps.stop + 1), coming, strict=True)
    for done, batch in traced(numbered, c.train.profiled, folder):
        state, figures = train_step(state, batch)
        log.train(done, figures)
        last, leaving = done == steps.stop, stop.agreed()
        if done % c.train.eval_every == 0 or last:
            log.evaluation(done, evaluate(state.params))
        if done % c.checkpoint.save_every == 0 or last or leaving:
            log.flush()  # the step's loss is read, and finite, before it is kept
            checkpoints.save(state, done, log.counters())
        if leaving:
            return state, True
    return state, False


def make_work(phase: Phase, mesh: jax.sharding.Mesh) -> budget.Work:
    """Returns what the steps of a phase read and compute."""
    c, corpus = phase.config, phase.corpus
    # This process's rows of the global batch, a pure function of the step.
    held = sharding.held_rows(c.train.batch_size, mesh)
    batch_of = data.training_batches(corpus, c.data, rows=held.numbers, batch_size=c.train.batch_size, seed=phase.seed)
    held_out = data.evaluation_batches(corpus, c.data, batch_size=c.train.batch_size, limit=c.train.eval_rows)
    _, _, train_step, eval_step = make_pretraining(c, next_sentence=corpus.next_sentence)
    eval_step = programs.shared(eval_step, mesh)  # of a budget's measurement, of phases with rows of one shape
    return budget.Work(
        batch_of,
        lambda s: step.to_mesh(batch_of(s), mesh, held=held),
        train_step,
        lambda params, batch: eval_step(params, step.to_mesh(batch, mesh)),
        held_out,
    )


def within_budget(
    c: Config, corpora: Sequence[Mixture], mesh: jax.sharding.Mesh, folder: storage.Folder, began: float
) -> Config:
    """Returns the config with the steps that the workdir has, or with as many as fit into the budget, measured now.

    Raises: UserError if none do.
    """
    if (folder.files / "config.json").exists():
        steps = runs.read_config(folder.files, Config).train.steps
        try:
            return c.with_steps(steps)
        except ValueError as error:  # a profile that is asked for beyond them
            raise UserError(f"{folder.path} has the {steps} steps that its budget gave: {error}") from error
    make_model, optimizer, _, _ = make_pretraining(c, next_sentence=corpora[0].next_sentence)
    works = [make_work(phase, mesh) for phase in make_phases(c, corpora)]
    speed = budget.measure(
        c, works, lambda: step.first_state(step.fresh_params(make_model, c.train.seed), optimizer), folder
    )
    left, speed = hosts.of_first((c.train.budget_seconds - (time.perf_counter() - began), speed))
    c = c.with_steps(budget.steps_within(c, left, speed))
    hosts.say(f"train.budget={c.train.budget} is {c.train.steps} steps: {budget.described(speed)}")
    return c


def open_corpora(c: Config) -> list[Mixture]:
    """Returns what each phase reads. Raises: UserError if one is not named, or they do not go together."""
    named = {"data": c.data} | {f"phases.{n}.data": phase.data for n, phase in enumerate(c.phases)}
    for name, read in named.items():
        if "" in read.paths:
            raise UserError(f"{name}.path is not set; name a directory that `bertjax prepare` wrote: --{name}.path=DIR")
    corpora = [open_mixture(read) for read in named.values()]
    for corpus in corpora[1:]:
        check_together(corpora[0].corpora[0], corpus.corpora[0])
    return corpora


def make_phases(c: Config, corpora: Sequence[Mixture]) -> list[Phase]:
    """Returns the phases of a config; each has an order of rows and masks of its own, the first that of the seed."""
    parts = enumerate(zip(c.by_phase(), corpora, strict=True))
    return [Phase(*part, corpus, data.seed_of_phase(c.train.seed, number)) for number, (part, corpus) in parts]


def attention_of(phase: Phase, mesh: jax.sharding.Mesh) -> kernels.Kernel:
    """Returns what computes attention in a phase. Raises: UserError if that is asked of what cannot."""
    c, spans = phase.config, phase.corpus.pairs_per_row
    return kernels.check(
        c.model, sharding.device_of(mesh), positions=c.data.seq_len, dtype=c.train.precision, most_spans=spans
    )


def with_pretrained_model(c: Config, corpus: Mixture, files: Path) -> Config:
    """Returns the config with the model of `train.init_from`, if that is set, long enough for the vocabulary.

    A run that has begun has that model in its own folder. Raises: UserError if the config asks for another model (what
    is as by default does not), or the corpus has another vocabulary.
    """
    if not c.train.init_from:
        return c
    begun = (files / "config.json").exists()
    there = runs.read_config(files, Config).model if begun else pretrained_model(c.train.init_from, corpus)
    asked, unset, has = (dataclasses.asdict(model) for model in (c.model, type(c.model)(), there))
    how = {f.name: asked[f.name] for f in dataclasses.fields(c.model) if f.metadata.get("free")}
    other = [f"model.{k}={v!r}" for k, v in asked.items() if v not in (unset[k], has[k]) and k not in how]
    if other:
        raise UserError(f"{', '.join(other)} is not what {c.train.init_from} has; leave the group model out")
    try:
        return dataclasses.replace(c, model=dataclasses.replace(there, **how))
    except ValueError as error:
        raise UserError(f"{c.train.init_from}: {error}") from error


def pretrained_model(folder: str, corpus: Mixture) -> ModelConfig:
    """Returns the model of a folder, long enough for the vocabulary. Raises: UserError if that is another one."""
    b = pretrained.read_blueprint(folder)
    check_extends(corpus.tokenizer, pretrained.read_tokenizer(folder, b), folder)
    return dataclasses.replace(b.config, vocab_size=max(b.config.vocab_size or 0, corpus.tokenizer.vocab_size))


def first_params(c: Config, corpus: Mixture, make_model: step.MakeModel) -> Params:
    """Returns random weights, or those of `train.init_from`; heads that it lacks are random, and a line says so."""
    params, folder = step.fresh_params(make_model, c.train.seed), c.train.init_from
    if not folder:
        return params
    b = pretrained.read_blueprint(folder)
    loaded, tokenizer = pretrained.read_params(folder, b), pretrained.read_tokenizer(folder, b)
    for part, weights in extend(loaded, params, tokenizer, corpus.tokenizer).items():
        if part in params:
            params[part] = weights
    lacking = [part for part in params if part not in loaded]
    if lacking:
        hosts.say(f"{folder} has no {', '.join(lacking)}: random weights there")
    return params


def with_vocabulary(c: Config, corpus: Mixture) -> Config:
    """Returns the config with the vocabulary's size filled in. Raises: UserError if the embedding is too small."""
    size, entries = c.model.vocab_size, corpus.tokenizer.vocab_size
    if size is not None and size < entries:
        raise UserError(
            f"model.vocab_size={size} is less than the {entries} entries of the vocabulary of {corpus.names};"
            f" leave it out or use {entries}"
        )
    return dataclasses.replace(c, model=dataclasses.replace(c.model, vocab_size=size or entries))


def held_out_figures(means: dict[str, float], held_out: Sequence[data.Batch]) -> dict[str, float]:
    """Returns the figures of an evaluation by their fixed names."""
    figures = {"loss": means["mlm_loss"] + means.get("nsp_loss", 0.0), **means}
    figures["mlm_perplexity"] = math.exp(min(means["mlm_loss"], 700.0))  # what a float can hold
    if "nsp_loss" in means:
        figures["nsp_pairs"] = sum(int(batch["next_weights"].sum()) for batch in held_out)
    return figures


def say_where_it_runs(c: Config, attention: Sequence[kernels.Kernel], mesh: jax.sharding.Mesh) -> None:
    """Prints the first log line: on what and how."""
    device = mesh.devices.flat[0]
    dropout = "" if c.train.prng == "threefry2x32" else f"; dropout by {c.train.prng}, other on every mesh"
    hosts.say(
        f"{mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}, {c.train.precision},"
        f" {kernels.describe(attention, kernels.norm_of(c.model, sharding.device_of(mesh)))}{dropout}"
    )


def say_what_runs(c: Config, phases: Sequence[Phase], state: step.TrainState, start: int) -> None:
    """Prints how large the model is, what it drops and reads, and how far it is."""
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    rows = ", then ".join(
        f"{phase.corpus.rows('train')} training and {phase.corpus.rows('validation')} held-out rows of"
        f" {phase.config.data.seq_len}" + (f" from step {phase.steps.start}" if phase.steps.start else "")
        for phase in phases
    )
    steps = f"going on from step {start} of {c.train.steps}" if start else f"{c.train.steps} steps"
    dropout = f"dropout {c.model.dropout}, of attention {c.model.attention_dropout}"
    hosts.say(f"{parameters / 1e6:.1f} M parameters, {dropout}; {rows}; {steps}")


def main() -> None:
    """The command."""
    backend.start()
    c, workdir = command_line.parse(Config, __doc__ or "")
    with reported(), hosts.joined(c.mesh):
        run(c, workdir)


if __name__ == "__main__":
    main()

"""How fast is a step of pretraining, how near to what the machine can do, and how fast is the same step in PyTorch?

    python -m benchmarks.train_step [--config=FILE] [--data=CORPUS] [--against=huggingface] [--group.field=value ...]

Runs the very step of train.py, on any backend; without --config 4 layers of width 512 on 16 rows of 128. The batches
are a corpus's, or made up: full rows, 15 % predicted. For each precision: tokens/s (real ones) and milliseconds of the
fastest and of the median round, MFU by `bertjax.training.flops`, seconds to compile, bytes by the compiler's account,
and the CPU time that Python takes a step for sending a batch, starting the step and reading the figures of the one
before. The peak is the data sheet's; on CPUs the rate of a large product in that precision, measured here.

With --against=huggingface also transformers' BertForPreTraining in PyTorch, with AdamW, in float32 and under bfloat16
autocast, eager and by torch.compile, on the same batches and from the same weights, all in turn. `ratio_float32` is our
tokens/s over theirs, the better of eager and compiled; `ratio_best` best over best. Fastest rounds are compared: what
else the machine does only makes them slower. Needs the `parity` extra. Prints a JSON line.

Shape letters: B batch (rows), S position, M predicted position.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.result import print_result
from bertjax import backend, command_line, sharding
from bertjax.config import Config, DataConfig, ModelConfig, TrainConfig
from bertjax.data.batches import Batch, full_batch, training_batches
from bertjax.data.mixture import open_mixture
from bertjax.errors import UserError, reported
from bertjax.planning.plan import with_vocabulary
from bertjax.training import step
from bertjax.training.flops import flops_per_token
from bertjax.training.metrics import peak_flops
from bertjax.training.pretraining import make_pretraining

Precision = Literal["float32", "bfloat16"]
Steps = Callable[[int], float]
"""Runs so many steps, and returns the seconds."""

DEFAULT = Config(
    model=ModelConfig(layers=4, width=512, heads=8, mlp_width=2048),
    data=DataConfig(seq_len=128),
    train=TrainConfig(batch_size=16),
)
BATCHES = 4
"""Different ones, taken in turn."""

MODEL = ("family", "layers", "width", "heads", "mlp_width", "dropout", "attention_dropout", "remat", "unroll_layers")
"""What of the model's config the line repeats."""


def default_config() -> Config:
    """Returns what --config makes, or `DEFAULT`."""
    path, c = command_line.config_file(Config, sys.argv[1:])
    return DEFAULT if path is None else c


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measures the step of pretraining, by itself or against another's."""

    against: Literal["nothing", "huggingface"] = "nothing"
    """Whose step to run in turn with ours."""
    data: str = ""
    """A directory that `bertjax prepare` wrote; without it rows are made up."""
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    """What to compute in."""
    steps: int = 4
    """Steps of a round."""
    rounds: int = 5
    """Times that each is measured."""
    threads: int | None = None
    """PyTorch's; without it as many as it takes by itself."""
    config: Annotated[
        Any, tyro.conf.arg(name="", constructor=Config), tyro.conf.configure(tyro.conf.FlagConversionOff)
    ] = dataclasses.field(default_factory=default_config)
    file: Annotated[str, tyro.conf.arg(name="config", help="Python file whose get_config() makes the defaults.")] = ""


def make_batches(c: Config, corpus: str) -> list[Batch]:
    """Returns some batches: of the corpus, or full rows of random tokens, whose next sentences are to be told, too."""
    if corpus:
        data = dataclasses.replace(c.data, path=corpus)
        rows = range(c.train.batch_size)
        read = training_batches(open_mixture(data), data, rows=rows, batch_size=len(rows), seed=c.train.seed)
        return [read(s) for s in range(BATCHES)]
    made = []
    for s in range(BATCHES):
        batch, draw = full_batch(c.data, c.train.batch_size), np.random.default_rng(s)
        rows, places = batch["predict"].shape
        batch["predict"] = np.sort(draw.permuted(np.tile(np.arange(c.data.seq_len), (rows, 1)), axis=1)[:, :places])
        for name in ("ids", "labels"):
            batch[name] = draw.integers(5, c.model.vocab_size, batch[name].shape)
        batch["next"] = draw.integers(0, 2, batch["next"].shape)
        made.append({name: x.astype(np.float32 if x.dtype == np.float32 else np.int32) for name, x in batch.items()})
    return made


def our_step(c: Config, precision: Precision, batches: Sequence[Batch]) -> tuple[Steps, dict[str, Any]]:
    """Returns what runs our steps, and a dictionary of what is known of them, to which each call adds."""
    c = dataclasses.replace(c, train=dataclasses.replace(c.train, precision=precision))
    mesh = sharding.make_mesh(c.mesh)
    sharding.check_batch(c.train.batch_size, mesh, microbatches=c.train.microbatches)
    held = sharding.held_rows(c.train.batch_size, mesh)
    with jax.set_mesh(mesh):
        run = make_pretraining(c, next_sentence=bool(batches[0]["next_weights"].any()))
        state = step.first_state(step.fresh_params(run.make_model, c.train.seed), run.optimizer)
        lowered = jax.jit(run.train_step, donate_argnums=0).lower(state, step.to_mesh(batches[0], mesh, held=held))
        started = time.perf_counter()
        memory: Any = lowered.compile().memory_analysis()
    facts: dict[str, Any] = {
        "compile_seconds": time.perf_counter() - started,
        "bytes": memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        "host_ms_per_step": [],
        "loss": [],
    }

    def steps(number: int) -> float:
        nonlocal state
        figures: dict[str, jax.Array] = {}
        started, python = time.perf_counter(), 0.0
        with jax.set_mesh(mesh):
            for s in range(number):
                before = time.thread_time()
                state, coming = run.train_step(state, step.to_mesh(batches[s % BATCHES], mesh, held=held))
                python += time.thread_time() - before
                if figures:
                    jax.block_until_ready(figures)  # waiting takes no time of this thread, and is not Python's
                before = time.thread_time()
                {name: x.item() for name, x in jax.device_get(figures).items()}
                python += time.thread_time() - before
                figures = coming
            jax.block_until_ready(state)
        facts["host_ms_per_step"].append(1e3 * python / number)
        facts["loss"].append(float(figures["loss"]))
        return time.perf_counter() - started

    return steps, facts


def their_step(c: Config, precision: Precision, batches: Sequence[Batch], *, compiled: bool) -> Steps:
    """Returns what runs the steps of a plain PyTorch loop over Hugging Face's model."""
    import torch

    from benchmarks.huggingface_curve import first_model, inputs, make_optimizer

    model: Any = first_model(c, c.model.dropout, attn_implementation="sdpa")
    optimizer = make_optimizer(model, c.optimizer, fused=True)
    forward = torch.compile(model) if compiled else model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    given = [{name: x.to(device) for name, x in inputs(batch).items()} for batch in batches]

    def steps(number: int) -> float:
        started = time.perf_counter()
        for s in range(number):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = forward(**given[s % BATCHES]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), c.optimizer.clip_norm)
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return steps


def measure(a: Arguments) -> dict[str, Any]:
    """Returns all figures."""
    c = with_vocabulary(a.config)
    batches = make_batches(c, a.data)
    ours = {precision: our_step(c, precision, batches) for precision in a.precisions}
    runs = {f"bertjax {precision}": steps for precision, (steps, _) in ours.items()}
    if a.against == "huggingface":
        runs |= their_steps(a, c, batches)
    seconds = in_turn(runs, a.steps, a.rounds)

    tokens = statistics.mean(int((batch["spans"] > 0).sum()) for batch in batches)
    flops = flops_per_token(c.model, c.model.vocab_size or 0, batches[0])
    found: dict[str, Any] = {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "model": {
            name: getattr(c.model, name) for name in ("family", "layers", "width", "dropout", "attention_dropout")
        },
        "rows": c.train.batch_size,
        "seq_len": c.data.seq_len,
        "tokens_per_step": tokens,
        "flops_per_token": flops,
        "runs": {name: speed(rounds, tokens) for name, rounds in seconds.items()},
    }
    for precision, (_, facts) in ours.items():
        run, peak = found["runs"][f"bertjax {precision}"], peak_flops() or matmul_rate(precision)
        run |= facts | {"host_ms_per_step": min(facts["host_ms_per_step"]), "loss": facts["loss"][-1]}
        run |= {"peak": peak, "mfu": run["tokens_per_second"] * flops / peak}
    if a.against == "huggingface":
        found |= ratios(found["runs"])
    return found


def their_steps(a: Arguments, c: Config, batches: Sequence[Batch]) -> dict[str, Steps]:
    """Returns Hugging Face's steps by their names."""
    import torch

    if a.threads is not None:
        torch.set_num_threads(a.threads)
    can_compile = shutil.which("c++") is not None
    if not can_compile:
        print("torch.compile needs a C++ compiler, and there is none: left out", file=sys.stderr)
    return {
        f"huggingface {precision} {'compiled' if compiled else 'eager'}": their_step(
            c, precision, batches, compiled=compiled
        )
        for precision in a.precisions
        for compiled in ((False, True) if can_compile else (False,))
    }


def in_turn(runs: dict[str, Steps], steps: int, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds a step of each round of each, after steps that are not counted."""
    for name, run in runs.items():
        print(f"first steps of {name}: {run(BATCHES):.1f} s", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(run(steps) / steps)
    return seconds


def speed(seconds: Sequence[float], tokens: float) -> dict[str, float]:
    """Returns what rounds of so many seconds a step come to."""
    fastest, median = min(seconds), statistics.median(seconds)
    return {
        "ms_per_step": 1e3 * fastest,
        "median_ms_per_step": 1e3 * median,
        "tokens_per_second": tokens / fastest,
        "median_tokens_per_second": tokens / median,
    }


def ratios(runs: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Returns our tokens/s over theirs: in float32, and of the best of each."""

    def best(prefix: str) -> float:
        return max((run["tokens_per_second"] for name, run in runs.items() if name.startswith(prefix)), default=0.0)

    found = {}
    if best("bertjax float32"):
        found["ratio_float32"] = best("bertjax float32") / best("huggingface float32")
    return found | {"ratio_best": best("bertjax") / best("huggingface")}


def matmul_rate(precision: Precision, size: int = 2048) -> float:
    """Returns the FLOP/s of a product of two square matrices, the fastest of several."""
    x = jnp.ones((size, size), precision)
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(x, x))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        jax.block_until_ready(product(x, x))
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))


def main() -> None:
    """The command."""
    backend.start()
    jax.config.update("jax_enable_compilation_cache", False)  # the time to compile is wanted
    with reported():
        arguments = tyro.cli(Arguments, description=__doc__)
        if min(arguments.steps, arguments.rounds) < 1:
            raise UserError(f"--steps={arguments.steps} and --rounds={arguments.rounds}: use at least 1")
        packages = ("jax", "torch", "transformers") if arguments.against == "huggingface" else ("jax",)
        print_result("train_step", measure(arguments), *packages)


if __name__ == "__main__":
    main()

"""Is fine-tuning as good as, and faster than, a plain PyTorch loop over the same encoder in Hugging Face's classes?

    python -m benchmarks.finetune_against_huggingface --init_from RUN --task sst2 --data SST-2 [--seeds 0 1 2 3 4 ...]

For each seed `finetune.run` trains, and then PyTorch from the exported encoder, with the same hyperparameters: AdamW
with the same learning rate in every step, batches in random order padded to their longest example, float32 or
bfloat16 autocast, whichever is faster here. Both are evaluated after each epoch, and the best epoch counts. Times are
from the files to the last figure. Prints one JSON line. Needs the `parity` extra.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import transformers
import tyro

import finetune
from benchmarks.result import print_result
from bertjax import backend, pretrained
from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig
from bertjax.errors import UserError, reported
from bertjax.tasks import classification, conll, tagging, text_examples
from bertjax.tasks.task import drawn
from bertjax.training import optimizers

IGNORED = -100  # the label that PyTorch's cross entropy leaves out
TRIAL = 5  # steps that are timed to choose the precision, after two that are not
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares fine-tuning with a plain PyTorch loop over Hugging Face's classes."""

    init_from: str
    """A run's folder: what both start from."""
    data: str
    """Folder with SST-2's train.tsv and dev.tsv, or with WNUT-17's files; plain or compressed."""
    task: Literal["sst2", "wnut17"] = "sst2"
    """Sentences of film reviews, accuracy; or named entities, F1."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each trains a run of either."""
    examples: int | None = None
    """Training examples, drawn anew for each seed; None takes all."""
    epochs: int = 3
    """Times that every example is read."""
    batch_size: int = 32
    """Examples of a step."""
    peak_lr: float = 5e-5
    """Learning rate at the end of the warm-up, a tenth of the steps; it then falls to 0."""
    seq_len: int = 128
    """Most tokens of an example."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of our matrix products."""
    pooling: Literal["cls", "mean"] = "cls"
    """The vector of a text; Hugging Face's classes take the mean of ModernBERT only."""


class Row(NamedTuple):
    """An example as Hugging Face's model takes it; its label, or those of its tokens."""

    ids: list[int]
    labels: int | list[int]


class Material(NamedTuple):
    """What the PyTorch loop learns and is judged by."""

    model: Callable[[], torch.nn.Module]
    train: list[Row]
    validation: list[Row]
    score: Callable[[list[np.ndarray]], float]
    """Returns the figure of the logits of each validation example."""


def make_config(a: Arguments) -> FinetuneConfig:
    """Returns the config of our runs. Raises: UserError if a file is not there, or a value makes no sense."""
    names = {"sst2": ("train.tsv", "dev.tsv"), "wnut17": ("wnut17train.conll", "emerging.dev.conll")}[a.task]
    train, validation = (_file(Path(a.data), name) for name in names)
    columns: dict[str, Any] = {"text": "sentence"} if a.task == "sst2" else {"text": "0", "label": "1"}
    try:
        return FinetuneConfig(
            task="classification" if a.task == "sst2" else "tagging",
            init_from=a.init_from,
            data=TaskDataConfig(
                train=train,
                validation=validation,
                seq_len=a.seq_len,
                stride=a.seq_len // 2,
                examples=a.examples,
                **columns,
            ),
            optimizer=OptimizerConfig(peak_lr=a.peak_lr, warmup_steps=None),
            train=TaskTrainConfig(epochs=a.epochs, batch_size=a.batch_size, precision=a.precision, pooling=a.pooling),
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _file(folder: Path, name: str) -> str:
    found = sorted(folder.glob(f"{name}*"))
    if not found:
        raise UserError(f"{folder} has no file {name}; name the folder of the task's files: --data")
    return str(found[0])


def with_seed(c: FinetuneConfig, seed: int) -> FinetuneConfig:
    """Returns the config of this seed's run."""
    return dataclasses.replace(c, train=dataclasses.replace(c.train, seed=seed))


def our_run(c: FinetuneConfig, workdir: Path) -> float:
    """Returns the figure of the best epoch of `finetune.run`."""
    figures = finetune.run(c, workdir)
    return figures["accuracy" if c.task == "classification" else "f1"]


def material(c: FinetuneConfig, folder: Path) -> Material:
    """Returns examples, model and figure for PyTorch, read with Hugging Face's own tokenizer."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return _sentences(c, folder, tokenizer) if c.task == "classification" else _tags(c, folder, tokenizer)


def _sentences(c: FinetuneConfig, folder: Path, tokenizer: Any) -> Material:
    parts = [text_examples.read_examples(path, text_examples.columns_of(c.data)) for path in _files(c)]
    parts[0] = drawn(parts[0], c.data.examples, c.train.seed)
    names = classification.label_names(parts[0])
    number = {name: i for i, name in enumerate(names)}

    def rows(examples: Sequence[text_examples.Example]) -> list[Row]:
        ids = tokenizer([e.text for e in examples], truncation=True, max_length=c.data.seq_len)["input_ids"]
        return [Row(one, number[e.label or ""]) for one, e in zip(ids, examples, strict=True)]

    train, validation = map(rows, parts)
    labels_N = np.array([row.labels for row in validation])

    def accuracy(logits: list[np.ndarray]) -> float:
        return float(np.mean(np.stack(logits).argmax(axis=1) == labels_N))

    make = transformers.AutoModelForSequenceClassification.from_pretrained
    pooling = {} if c.train.pooling == "cls" else {"classifier_pooling": c.train.pooling}
    return Material(functools.partial(make, folder, num_labels=len(names), **pooling), train, validation, accuracy)


def _tags(c: FinetuneConfig, folder: Path, tokenizer: Any) -> Material:
    parts = [conll.read_sentences(path, 0, 1, tags_required=True) for path in _files(c)]
    parts[0] = drawn(parts[0], c.data.examples, c.train.seed)
    names = tagging.tag_names(parts[0])
    rows, words = [], []
    for sentences in parts:
        for sentence in sentences:
            encoded = tokenizer(
                list(sentence.tokens), is_split_into_words=True, truncation=True, max_length=c.data.seq_len
            )
            places = encoded.word_ids()
            first = [w is not None and w != before for w, before in zip(places, [None, *places], strict=False)]
            told = [(sentence.tags or ())[w] if yes else "" for w, yes in zip(places, first, strict=True)]
            rows.append(Row(encoded["input_ids"], [names.index(t) if t in names else IGNORED for t in told]))
            words.append([w if yes else None for w, yes in zip(places, first, strict=True)])
    size = len(parts[0])
    tags = [list(sentence.tags or ()) for sentence in parts[1]]

    def f1(logits: list[np.ndarray]) -> float:
        predicted = [["O"] * len(one) for one in tags]
        for guess, places, logits_SC in zip(predicted, words[size:], logits, strict=True):
            for w, best in zip(places, logits_SC.argmax(axis=-1), strict=False):
                if w is not None:
                    guess[w] = names[best]
        return conll.entity_metrics(tags, predicted)["f1"]

    make = transformers.AutoModelForTokenClassification.from_pretrained
    return Material(functools.partial(make, folder, num_labels=len(names)), rows[:size], rows[size:], f1)


def _files(c: FinetuneConfig) -> tuple[str, str]:
    return c.data.train, c.data.validation


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Returns a batch padded to its longest example."""
    longest = max(len(row.ids) for row in rows)
    ids = [row.ids + [pad_id] * (longest - len(row.ids)) for row in rows]
    keep = [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows]
    labels = [
        row.labels + [IGNORED] * (longest - len(row.ids)) if isinstance(row.labels, list) else row.labels
        for row in rows
    ]
    arrays = {"input_ids": ids, "attention_mask": keep, "labels": labels}
    return {name: torch.tensor(values).to(DEVICE) for name, values in arrays.items()}


class Loop:
    """A plain PyTorch loop: model, optimizer, step."""

    def __init__(self, made: Material, c: FinetuneConfig, steps: int, *, bfloat16: bool):
        torch.manual_seed(c.train.seed)
        self.model: Any = made.model().to(DEVICE)
        decays = {True: c.optimizer.weight_decay, False: 0.0}
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            groups[not (name.endswith("bias") or "norm" in name.lower())].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters, "weight_decay": decays[key]} for key, parameters in groups.items()],
            lr=1.0,
            betas=(c.optimizer.b1, c.optimizer.b2),
            eps=c.optimizer.epsilon,
        )
        rates = np.asarray(optimizers.learning_rate(c.optimizer, steps)(np.arange(steps + 1)))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: float(rates[s]))
        self.clip_norm, self.bfloat16 = c.optimizer.clip_norm, bfloat16

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Returns what to compute under."""
        return torch.autocast(DEVICE, torch.bfloat16) if self.bfloat16 else contextlib.nullcontext()

    def step(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Makes one update."""
        self.model.train()
        with self.precision():
            loss = self.model(**batch).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def logits(self, rows: Sequence[Row], batch_size: int) -> list[np.ndarray]:
        """Returns the logits of each example; rows of about one length together, as a careful loop does."""
        self.model.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found: list[np.ndarray] = [np.zeros(0)] * len(rows)
        with torch.no_grad(), self.precision():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = collate([rows[i] for i in chosen], self.model.config.pad_token_id)
                for i, one in zip(chosen, self.model(**batch).logits.float().cpu().numpy(), strict=True):
                    found[i] = one
        return found


def their_run(c: FinetuneConfig, folder: Path, *, bfloat16: bool) -> float:
    """Returns the figure of the best epoch of the PyTorch loop."""
    made = material(c, folder)
    per_epoch = -(-len(made.train) // c.train.batch_size)
    loop = Loop(made, c, c.train.epochs * per_epoch, bfloat16=bfloat16)
    draw, best = np.random.default_rng(c.train.seed), 0.0
    for _ in range(c.train.epochs):
        order = draw.permutation(len(made.train))
        for start in range(0, len(order), c.train.batch_size):
            rows = [made.train[i] for i in order[start : start + c.train.batch_size]]
            loop.step(collate(rows, loop.model.config.pad_token_id))
        best = max(best, made.score(loop.logits(made.validation, c.train.batch_size)))
    return best


def bfloat16_is_faster(c: FinetuneConfig, folder: Path) -> bool:
    """Returns which of PyTorch's two precisions takes less time for a step on this machine."""
    made = material(c, folder)
    seconds = {}
    for bfloat16 in (False, True):
        loop = Loop(made, c, TRIAL + 2, bfloat16=bfloat16)
        batch = collate(made.train[: c.train.batch_size], loop.model.config.pad_token_id)
        times = [timed(functools.partial(loop.step, batch))[1] for _ in range(TRIAL + 2)]
        seconds[bfloat16] = statistics.median(times[2:])
    return seconds[True] < seconds[False]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what the function returns, and the seconds it took."""
    started = time.perf_counter()
    result = function()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - started


def compare(a: Arguments) -> dict[str, Any]:
    """Returns both sides' figures and times, and whether ours are no worse than theirs minus two standard errors."""
    if len(a.seeds) < 2:
        raise UserError(f"seeds={a.seeds} give no standard error; use two or more")
    c = make_config(a)
    family = pretrained.read_blueprint(a.init_from).config.family
    if a.pooling == "mean" and family != "modernbert":
        raise UserError(f"--pooling mean, but {a.init_from} is of the family {family}; leave it out")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "exported"
        pretrained.export_folder(a.init_from, folder)
        bfloat16 = bfloat16_is_faster(c, folder)
        ours, theirs = [], []
        for seed in a.seeds:
            of_seed = with_seed(c, seed)
            ours.append(timed(functools.partial(our_run, of_seed, Path(directory) / f"seed{seed}")))
            theirs.append(timed(functools.partial(their_run, of_seed, folder, bfloat16=bfloat16)))
            print(f"seed {seed}: ours {ours[-1]}, theirs {theirs[-1]}", file=sys.stderr, flush=True)
    found = {"ours": summary(ours), "theirs": summary(theirs) | {"precision": "bfloat16" if bfloat16 else "float32"}}
    return (
        dataclasses.asdict(a)
        | found
        | {
            "no_worse": found["ours"]["mean"] >= found["theirs"]["mean"] - 2 * found["theirs"]["standard_error"],
            "seconds_ratio": found["ours"]["mean_seconds"] / found["theirs"]["mean_seconds"],
        }
    )


def summary(runs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Returns mean and standard error of the figures, and the times, of (figure, seconds) of each seed."""
    figures, seconds = zip(*runs, strict=True)
    error = statistics.stdev(figures) / len(figures) ** 0.5
    return {
        "figures": figures,
        "mean": statistics.fmean(figures),
        "standard_error": error,
        "seconds": seconds,
        "mean_seconds": statistics.fmean(seconds),
    }


def main() -> None:
    """The command."""
    backend.start()
    transformers.logging.set_verbosity_error()  # it warns of the new classifier
    arguments = tyro.cli(Arguments, config=(tyro.conf.FlagConversionOff,))
    with reported():
        print_result("finetune_against_huggingface", compare(arguments), "jax", "torch", "transformers")


if __name__ == "__main__":
    main()

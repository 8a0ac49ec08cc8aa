"""The `bertjax` command: prepare, predict, import, export, plan, report."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import tyro

from bertjax import command_line
from bertjax.config import Config
from bertjax.data import documents
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError, reported
from bertjax.streaming import stream

SETTINGS = {
    "top_k": ("fill-mask",),
    "pooling": ("embed",),
    "normalize": ("embed",),
    "truncate": ("classify", "score", "answer", "choose", "embed"),
}
"""Of `predict`: what may be asked with each."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Prepares text for pretraining: documents, sentences, word pieces, pairs, shards.

    Reads .txt (a blank line between documents) and .jsonl (an object a line with "text" or "paragraphs"), also
    compressed (.gz .bz2 .xz .zst), standard input (-), TFDS data sets in ArrayRecord form (tfds:NAME), and
    the pairs in TFRecord files of google-research/bert's create_pretraining_data.py (.tfrecord, with --vocab).
    With --inspect DIR alone it shows what a prepared folder holds.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Files, folders, patterns, - or tfds:NAME[/config]."""
    inspect: str | None = None
    """A prepared folder: verify its checksums, show its counts, lengths and samples, warn of what will hurt."""
    settings: Annotated[PrepareConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=lambda: PrepareConfig(output="")
    )

    def __post_init__(self) -> None:
        if self.inspect is None and not self.settings.output:
            raise ValueError("give the folder to write with --output, or with --inspect one to look at")
        if self.inspect is not None and (self.inputs or self.settings != PrepareConfig(output="")):
            raise ValueError("--inspect DIR only looks at what is there, and takes no inputs and no other settings")

    def run(self) -> None:
        """Prepares, and says what was made; or prints what is there."""
        if self.inspect is not None:
            from bertjax.data.inspection import inspection  # imports TFDS, which takes a while

            for line in inspection(self.inspect):
                print(line)
            return
        from bertjax.data.prepare import prepare

        manifests = prepare(self.settings, self.inputs)
        directories = self.settings.directories(Path(self.settings.output)).values()
        for directory, manifest in zip(directories, manifests, strict=True):
            rows = {split: described["rows"] for split, described in manifest["splits"].items()}
            entries = manifest["vocabulary"]["entries"]
            print(json.dumps({"output": str(directory), "rows": rows, "vocabulary": entries}))


@dataclasses.dataclass(frozen=True)
class Predict:
    """Asks a trained model; one JSON object a line for each text.

    fill-mask: the likeliest word pieces for each [MASK]. classify: the label of each text, or pair of texts (text, tab,
    text): what the model was fine-tuned on, the other is refused. score: the number that a regression gives each text,
    or pair. answer: the words of a text that answer a question (question, tab, text). choose: which of several ways a
    text goes on (text, tab, way, tab, way ...); after a fine-tuning with data.second begin each way with that text.
    tag: the named parts of each text. embed: a vector for each text.
    """

    what: Annotated[Literal["fill-mask", "classify", "score", "answer", "choose", "tag", "embed"], tyro.conf.Positional]
    """What to ask."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The texts; without any they are the lines of --file or of standard input."""
    model: str = tyro.MISSING
    """Workdir of a pretraining run, of a fine-tuning run for classify, score, answer, choose and tag."""
    file: str | None = None
    """A text file, a text a line."""
    top_k: int = 5
    """Candidates for a [MASK]."""
    pooling: Literal["mean", "cls"] = "mean"
    """The vector of a text: the mean over its tokens, or that of [CLS]."""
    normalize: bool = False
    """Scale vectors to length 1."""
    truncate: bool = False
    """Cut what is too long instead of refusing it: a text for classify, score and choose at its fine-tuning's
    data.seq_len, a question at data.question_len, a text for embed at the model's positions."""

    def __post_init__(self) -> None:
        for name, asked in SETTINGS.items():
            if self.what not in asked and getattr(self, name) != getattr(Predict, name):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} goes with {', '.join(asked)}, not with {self.what}; leave it out")

    def run(self) -> None:
        """Prints an answer for each text."""
        from bertjax import backend
        from bertjax.inference import load

        backend.start()
        model = load(self.model)
        for text, answer in stream(lambda texts: self._answers(model, texts), self._lines()):
            print(json.dumps({"text": text, **answer}, ensure_ascii=False), flush=True)

    def _answers(self, model: Any, texts: list[str]) -> Iterable[Mapping[str, Any]]:
        cut = {"truncate": self.truncate}
        asked: dict[str, Callable[[], Iterable[Mapping[str, Any]]]] = {
            "fill-mask": lambda: ({"masks": found} for found in model.fill_mask(texts, top_k=self.top_k)),
            "classify": lambda: model.classify(_pairs(texts), **cut),
            "score": lambda: ({"score": round(score, 6)} for score in model.score(_pairs(texts), **cut)),
            "answer": lambda: model.answer_all([_question(text) for text in texts], **cut),
            "choose": lambda: (model.choose(before, ways, **cut) for before, *ways in (t.split("\t") for t in texts)),
            "tag": lambda: ({"parts": found} for found in model.tag(texts)),
            "embed": lambda: (
                {"embedding": [round(float(x), 6) for x in vector]}
                for vector in model.embed(texts, self.pooling, normalize=self.normalize, **cut)
            ),
        }
        return asked[self.what]()

    def _lines(self) -> Iterator[str]:
        if self.texts and self.file:
            raise UserError("give texts or --file, not both")
        if self.texts:
            yield from self.texts
        elif self.file:
            with Path(self.file).open("rb") as source:
                yield from _texts(Path(self.file), source)
        else:
            yield from _texts(Path("standard input"), sys.stdin.buffer)


@dataclasses.dataclass(frozen=True)
class Import:
    """Makes a bertjax folder of a Hugging Face one, or of Google's, to fine-tune, to go on pretraining, to ask.

    Prints what it holds. Code in the folder is ignored, pickles are refused.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A folder with config.json, model.safetensors (or its shards) and tokenizer.json or vocab.txt; or with
    bert_config.json, bert_model.ckpt.* and vocab.txt, which needs the extra `google`."""
    directory: Annotated[str, tyro.conf.Positional]
    """The folder to make."""

    def run(self) -> None:
        """Imports, and says what was there."""
        from bertjax import backend
        from bertjax.pretrained import import_folder

        backend.start()
        print(json.dumps({"output": self.directory} | import_folder(self.source, self.directory)))


@dataclasses.dataclass(frozen=True)
class Export:
    """Makes a Hugging Face folder of a run: config.json, model.safetensors, the tokenizer, a model card."""

    source: Annotated[str, tyro.conf.Positional]
    """Workdir of a run; of a fine-tuning its best checkpoint, else the newest."""
    directory: Annotated[str, tyro.conf.Positional]
    """The folder to make."""
    architecture: str | None = None
    """The class it is for, such as BertForMaskedLM or BertModel; None takes the one with all of the model's heads."""

    def run(self) -> None:
        """Exports, and says what."""
        from bertjax import backend
        from bertjax.pretrained import export_folder

        backend.start()
        made = export_folder(self.source, self.directory, self.architecture)
        print(json.dumps({"output": self.directory} | made))


def _planned_config() -> Config:
    return command_line.config_file(Config, sys.argv[1:])[1]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Says what a config needs on TPUs or GPUs that are not there: memory, network, time, cost.

    Compiles the very step of train.py for TPUs (extra `plan`); of GPUs it computes by formulas. No corpus is read.
    Nothing is measured.
    """

    topology: str
    """The pod, such as v5e:16x16, or GPUs, such as h100x8."""
    slices: int = 1
    """So many of them, joined by the data-centre network."""
    pairs_per_row: int = 1
    """Of the corpus, as it is prepared: makes room for predictions."""
    next_sentence: bool = True
    """Whether the corpus has pairs."""
    largest_batch: bool = False
    """Also search for the largest batch that fits; compiles up to five times more."""
    json: bool = False
    """Print an object a line, one for each phase, for machines."""
    config: Annotated[
        Any, tyro.conf.arg(name="", constructor=Config), tyro.conf.configure(tyro.conf.FlagConversionOff)
    ] = dataclasses.field(default_factory=_planned_config)
    file: Annotated[str, tyro.conf.arg(name="config", help="Python file whose get_config() makes the defaults.")] = ""

    def run(self) -> None:
        """Compiles, and says what came of it; exit code 1 if it does not fit."""
        from bertjax.planning import hardware, page, plan, search

        topology = hardware.find_topology(self.topology, self.slices)
        make_plan = functools.partial(
            plan.make_plan,
            topology=topology,
            devices=hardware.devices(topology),
            pairs_per_row=self.pairs_per_row,
            next_sentence=self.next_sentence,
        )
        fits = True
        for steps, phase in self.config.by_phase():
            made = make_plan(phase, steps=len(steps))
            remedies = [] if made.fits else search.remedies(made, make_plan)
            largest = search.largest_batch(made, make_plan) if self.largest_batch else None
            if self.json:
                print(json.dumps(page.as_json(made, remedies, largest)), flush=True)
            else:
                print("\n".join(page.lines(made, remedies, largest)), flush=True)
            fits &= made.fits
        if not fits:
            sys.exit(1)


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes a run's report.html: its state, its figures beside their baselines, its curves, its config."""

    workdir: Annotated[str, tyro.conf.Positional]
    """The run's folder."""

    def run(self) -> None:
        """Writes it, and says where."""
        from bertjax.report import write_report

        print(write_report(Path(self.workdir)))


COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": Prepare,
    "predict": Predict,
    "import": Import,
    "export": Export,
    "plan": Plan,
    "report": Report,
}


def main() -> None:
    """The command; exit code 2 for a mistake on the command line, 1 for any other of a user's."""
    command = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="bertjax", description=__doc__)
    with reported():
        command.run()


def _pairs(texts: list[str]) -> list[Any]:
    """Returns the texts, one with a tab as a pair."""
    return [tuple(text.split("\t")) if "\t" in text else text for text in texts]


def _question(text: str) -> tuple[str, str]:
    question, tab, context = text.partition("\t")
    if not tab:
        raise UserError(f"{text[:60]!r} has no tab; write a question, a tab, and the text with the answer")
    return question, context


def _texts(path: Path, source: BinaryIO) -> Iterator[str]:
    return (line.text for line in documents.lines(path, source, "strict"))

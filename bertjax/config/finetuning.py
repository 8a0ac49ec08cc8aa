"""A fine-tuning run: the task and its files, how it is learned, and what a sweep goes through."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bertjax.config.fields import check, check_not_negative, check_positive, free
from bertjax.config.shared import CheckpointConfig, MeshConfig, OptimizerConfig, Precision

Pooling = Literal["cls", "mean", "weighted", "layers"]
"""A text's vector: the pooler's over [CLS], the mean of the last hidden states, their mean by learned weights, or the
means of the embeddings and of every layer's hidden states side by side."""


@dataclasses.dataclass(frozen=True)
class TaskDataConfig:
    """The files of a task, plain or compressed.

    They are .tsv, .txt, .csv, .jsonl or TFDS data sets (tfds:NAME, tfds:NAME#SPLIT) with these columns; for answers
    SQuAD's .json, for tagging CoNLL's columns.
    """

    train: str = free("")
    """Labelled examples to learn from, or `installed-docs`: from which library is a sentence?"""
    validation: str = free("")
    """Labelled examples to evaluate on; the best checkpoint is the one that does best here."""
    test: str | None = free(None)
    """Examples to predict with the best checkpoint, labelled or not."""
    also: tuple[str, ...] = free(())
    """More labelled files to evaluate the best checkpoint on, as MNLI's mismatched one."""
    submission: str | None = free(None)
    """Also write the test file's predictions as glue/NAME.tsv, as GLUE's server takes them: `CoLA`, `MNLI-m`, ..."""
    text: str = "text"
    """Column of the text, or of the token: its name in the header, or its number from 0 where there is no header."""
    test_text: str | None = free(None)
    """Column of the text in the test file, where it is another one."""
    second: str | None = None
    """Column of the second text, for pairs."""
    choices: tuple[str, ...] = ()
    """Choice: columns of the ways to go on. `second`, if it is set, is what each of them begins with, and the label is
    the number of the right one, from 0."""
    label: str = "label"
    """Column of the label; of several, with a | between them."""
    skip_bad_rows: bool = False
    """Leave rows of a table out that have too many or too few columns, or are no JSON, and count them. Not of the test
    file, where every row has a prediction."""
    positive: str | None = None
    """The label, of two, whose precision, recall and F1 are told; None takes the last as they are sorted."""
    seq_len: int = 128
    """Most tokens of an example (S), special ones included; longer ones are cut."""
    examples_per_class: int | None = None
    """Learn from this many examples of each class, drawn by the seed; None takes all."""
    examples: int | None = None
    """Learn from at most so many examples, drawn by the seed; None takes all."""
    stride: int = 128
    """Tokens from the beginning of a window over a text that is too long for one to that of the next."""
    question_len: int = 64
    """Answers: most tokens of a question; longer ones are cut."""
    context: int = 0
    """Tagging: most tokens on either side of a sentence, from its document, that are read with it."""
    token_prefix: str = ""
    """Tagging: what is taken off the beginning of every token, such as WikiANN's `en:`."""
    max_answer: int = 30
    """Answers: most tokens of an answer that is given."""
    unanswerable: bool = False
    """Answers: whether some questions have none, as in SQuAD 2.0; the threshold is then chosen by the validation."""

    def __post_init__(self) -> None:
        check(self.seq_len >= 8, f"seq_len={self.seq_len} is too short; use at least 8")
        check_positive(stride=self.stride, question_len=self.question_len, max_answer=self.max_answer)
        check_not_negative(context=self.context)
        if self.examples is not None:
            check_positive(examples=self.examples)
        if self.examples_per_class is not None:
            check_positive(examples_per_class=self.examples_per_class)


@dataclasses.dataclass(frozen=True)
class TaskTrainConfig:
    """How long, how much at a time, from which weights, and what is reported on the way."""

    epochs: int = 3
    """Times that every example is read."""
    batch_size: int = 32
    """Examples of a step, over all devices (B)."""
    seed: int = 0
    """Everything random folds from it: the head's weights, the order of the examples, dropout."""
    from_scratch: bool = False
    """Start from random weights of the same model instead: shows what the pretraining is worth."""
    pooling: Pooling = "cls"
    """What a text's label is told from: [CLS] through the pretrained pooler; the mean of the last hidden states, by
    equal or by learned weights; or the means of the embeddings and of every layer's hidden states side by side."""
    dropout: float | None = None
    """On the embeddings, the sublayers and the head; None keeps the pretrained model's."""
    mask_rate: float = 0.0
    """Share of an example's tokens read as [MASK], others each time: against learning few examples by heart."""
    precision: Precision = "float32"
    """Of the matrix products; `auto` takes the faster on the devices that the run begins on."""
    frozen_layers: int | None = None
    """Layers that stay as they are, from the lowest; the embeddings do, too, and with 0 only they. None: nothing."""
    evals_per_epoch: int = 1
    """Evaluations, each with a checkpoint, in an epoch; the last is at its end."""
    metric: str | None = None
    """Figure of the validation file that is highest at the best checkpoint; None takes accuracy, of scores spearman, of
    tags, answers and several labels f1."""
    patience: int | None = free(None)
    """Evaluations in a row without a better figure after which training stops; None never stops it."""
    log_every: int = free(1)
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = free(False)
    """Also write TensorBoard events into the workdir (extra `tensorboard`)."""
    wandb_project: str | None = free(None)
    """Also log to this Weights & Biases project (extra `wandb`)."""

    def __post_init__(self) -> None:
        check_positive(
            epochs=self.epochs,
            batch_size=self.batch_size,
            evals_per_epoch=self.evals_per_epoch,
            log_every=self.log_every,
        )
        check_not_negative(seed=self.seed)
        if self.frozen_layers is not None:
            check_not_negative(frozen_layers=self.frozen_layers)
        if self.patience is not None:
            check_positive(patience=self.patience)
        check(0 <= self.mask_rate < 1, f"mask_rate={self.mask_rate} is not from 0 to below 1")
        if self.dropout is not None:
            check(0 <= self.dropout < 1, f"dropout={self.dropout} is not between 0 and 1")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """What `--sweep` goes through, every value with every other (Devlin et al. 2019, appendix A.3; seeds are ours)."""

    peak_lr: tuple[float, ...] = free((5e-5, 3e-5, 2e-5))
    """Values of optimizer.peak_lr."""
    batch_size: tuple[int, ...] = free((16, 32))
    """Values of train.batch_size."""
    epochs: tuple[int, ...] = free((2, 3, 4))
    """Values of train.epochs."""
    seed: tuple[int, ...] = free((0, 1, 2))
    """Values of train.seed; the spread over them says what a difference between settings is worth."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            values = getattr(self, field.name)
            check(len(values) > 0, f"sweep.{field.name} has no values; give at least one")
            check(len(set(values)) == len(values), f"sweep.{field.name}={values} has a value twice")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """A fine-tuning run."""

    task: Literal["classification", "multilabel", "regression", "tagging", "answers", "choice"] = "classification"
    """What a text or a pair of texts is given: one of several labels, any, a number, names of its parts, an answer, the
    right one of several ways to go on."""
    init_from: str = free("")
    """What to start from: the folder of a pretraining (its newest checkpoint) or of a fine-tuning (its best), or one of
    Hugging Face's or Google's."""
    data: TaskDataConfig = dataclasses.field(default_factory=TaskDataConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(peak_lr=5e-5, warmup_steps=None)
    )
    train: TaskTrainConfig = dataclasses.field(default_factory=TaskTrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=lambda: CheckpointConfig(keep=1))
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    sweep: SweepConfig = dataclasses.field(default_factory=SweepConfig)

    def __post_init__(self) -> None:
        check(
            (self.task == "choice") == (len(self.data.choices) > 1),
            f"task={self.task!r} with data.choices={self.data.choices}; name two or more columns for choice, else none",
        )

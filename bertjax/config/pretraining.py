"""A pretraining run. The defaults are BERT-base at 128 positions.

Source: Devlin et al. 2019, appendix A.2.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Literal

from bertjax.config.fields import check, check_not_negative, check_positive, check_share, free
from bertjax.config.shared import CheckpointConfig, MeshConfig, OptimizerConfig, Precision

Prng = Literal["threefry2x32", "rbg", "unsafe_rbg"]
"""JAX's generators. Of threefry2x32 every mesh draws the same numbers, each device only its own."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The encoder and its pretraining heads."""

    vocab_size: int | None = None
    """Entries of the vocabulary (V before padding); None takes the tokenizer's."""
    width: int = 768
    """Width of the hidden states (D)."""
    layers: int = 12
    """Number of blocks (L)."""
    heads: int = 12
    """Attention heads (H); must divide the width."""
    mlp_width: int = 3072
    """Width of the feed-forward layer (F)."""
    max_positions: int = 512
    """Learned position embeddings: the longest input in tokens."""
    segments: int = 2
    """Segment (token type) embeddings."""
    gelu: Literal["exact", "tanh"] = "exact"
    """Hugging Face's `gelu` is exact, Google's code uses the tanh approximation."""
    dropout: float = 0.1
    """On the embeddings and on both sublayers of every block."""
    attention_dropout: float = 0.1
    """On the attention weights."""
    norm_epsilon: float = 1e-12
    """Added to the variance in LayerNorm."""
    init_std: float = 0.02
    """Standard deviation of the truncated normal that weights start from."""
    family: Literal["bert", "modernbert"] = "bert"
    """Which block: BERT's (and RoBERTa's), or ModernBERT's."""
    global_every: int = 3
    """ModernBERT: of so many layers one, the first, has global attention."""
    local_window: int = 128
    """ModernBERT: tokens that local attention sees, half of them on each side."""
    rope_theta: float = 160_000.0
    """ModernBERT: base of the rotations in layers with global attention."""
    local_rope_theta: float = 10_000.0
    """ModernBERT: base of the rotations in layers with local attention."""
    position_offset: int = 0
    """Rows of the position table before that of the first token; RoBERTa's has 2 that are never used."""
    unroll_layers: bool | Literal["auto"] = free("auto")
    """True compiles every block by itself: slower to compile, on GPUs and some CPUs faster to run (docs/log.md). `auto`
    does it in pretraining but on TPUs, and in fine-tuning up to six layers. Same result to rounding."""
    attention: Literal["auto", "xla", "cudnn", "splash", "triton"] = free("auto")
    """What computes attention: XLA; a kernel of cuDNN on NVIDIA GPUs, or splash on TPUs, neither of which drops weights
    (attention_dropout=0); our own in Triton on H100 and H200, which does. `auto` takes the fastest that can, but of
    packed rows cuDNN's only if it is asked for. Same result to rounding."""
    norm: Literal["auto", "xla", "triton"] = free("auto")
    """What adds a sublayer's output to its input and normalizes: XLA, or one kernel of our own for A100, where it is
    unmeasured, H100 and H200, where `auto` takes it. Same result to rounding."""
    remat: Literal["none", "products", "block"] = free("none")
    """What the backward pass computes again of a block to save memory: what is quick, but no product; the products of
    attention, too; all of it. Same result to rounding."""

    def __post_init__(self) -> None:
        check_positive(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            mlp_width=self.mlp_width,
            max_positions=self.max_positions,
            segments=self.segments,
            norm_epsilon=self.norm_epsilon,
            init_std=self.init_std,
        )
        check_not_negative(position_offset=self.position_offset)
        check_positive(
            global_every=self.global_every,
            local_window=self.local_window,
            rope_theta=self.rope_theta,
            local_rope_theta=self.local_rope_theta,
        )
        if self.vocab_size is not None:
            check_positive(vocab_size=self.vocab_size)
        divisors = [h for h in range(1, self.width + 1) if self.width % h == 0]
        nearest = min(divisors, key=lambda h: abs(h - self.heads))
        check(self.width % self.heads == 0, f"heads={self.heads} do not divide width={self.width}; use heads={nearest}")
        check_share(dropout=self.dropout, attention_dropout=self.attention_dropout)
        check(max(self.dropout, self.attention_dropout) < 1, "a dropout of 1 leaves nothing; use less")
        if self.family == "modernbert":
            rotatable = self.width // self.heads % 2 == 0
            check(
                rotatable, f"width={self.width} over heads={self.heads} is odd, which cannot be rotated; use even heads"
            )

    def unrolled(self, *, auto: bool) -> ModelConfig:
        """Returns the config with `unroll_layers` decided: as it is asked for, or `auto`."""
        return dataclasses.replace(self, unroll_layers=auto if self.unroll_layers == "auto" else self.unroll_layers)

    @property
    def biases(self) -> bool:
        """Whether dense layers and LayerNorms have biases."""
        return self.family == "bert"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is read and how it is masked."""

    path: str | tuple[str, ...] = free("")
    """A directory that `bertjax prepare` wrote, or `installed-docs`: the documentation of the installed libraries.
    Several are mixed."""
    weights: tuple[float, ...] = ()
    """Of several paths, how many of the rows that are read come from each, relative to the others; without, all of an
    epoch."""
    seq_len: int = 128
    """Positions of a row (S). Prepared rows may be shorter, not longer."""
    max_predictions: int = 20
    """Most masked positions of a pair, Google's max_predictions_per_seq; a row has room for all of its pairs."""
    mask_rate: float = 0.15
    """Share of a pair's tokens, the special ones counted, that is predicted."""
    eval_mask_rate: float = 0.15
    """The same of held-out text: one rate, so that the figures of runs with different `mask_rate` compare."""
    masking: Literal["token", "whole_word", "ngram"] = "token"
    """What is predicted together: nothing; all pieces of a word; runs of whole words, n of them with p(n) like 1/n."""
    ngram_max: int = 3
    """Most words of a run (with `masking=ngram`)."""
    mask_token_share: float = 0.8
    """Of the predicted positions, the share that reads [MASK]."""
    random_token_share: float = 0.1
    """Of the predicted positions, the share that reads a random id; the rest stays as it is."""
    cache: str | None = free(None)
    """A folder on a disk of the machine's own to which the corpus is copied first; the next run finds it there."""
    prefetch: int = free(4)
    """Batches made ahead of the step."""
    threads: int = free(2)
    """Threads that make them."""

    def __post_init__(self) -> None:
        check(self.seq_len >= 8, f"seq_len={self.seq_len} is too short; use at least 8")
        check(bool(self.paths), "path=() names no corpus")
        check(
            len(self.weights) in (0, len(self.paths)),
            f"weights={self.weights} are {len(self.weights)}, but path names {len(self.paths)}; give one for each",
        )
        check_positive(**{f"weights[{i}]": weight for i, weight in enumerate(self.weights)})
        check_positive(
            max_predictions=self.max_predictions,
            ngram_max=self.ngram_max,
            prefetch=self.prefetch,
            threads=self.threads,
        )
        check_share(
            mask_rate=self.mask_rate,
            eval_mask_rate=self.eval_mask_rate,
            mask_token_share=self.mask_token_share,
            random_token_share=self.random_token_share,
        )
        shares = self.mask_token_share + self.random_token_share
        check(shares <= 1 + 1e-9, f"mask_token_share + random_token_share = {shares} is more than 1")

    @property
    def paths(self) -> tuple[str, ...]:
        """The corpora."""
        return (self.path,) if isinstance(self.path, str) else self.path


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long, how much at a time, and what is reported on the way."""

    steps: int = 1_000_000
    """Optimizer updates; the learning rate reaches 0 after the last one."""
    budget: str | None = None
    """Time that the run may take from its start to its end, such as `30m` or `1h30m`: when it begins, as many steps are
    chosen as fit into it here. Warm-up, decay and phases keep their shares of `steps`."""
    batch_size: int = 256
    """Rows of a step, over all devices (B)."""
    init_from: str = ""
    """A run's folder, or one of Hugging Face's, to go on pretraining from: its model with its dropout, its weights, a
    new optimizer. It is read when the run begins, and not again."""
    seed: int = 0
    """Everything random folds from it: initial weights, order of the rows, masks, dropout."""
    precision: Precision = "float32"
    """Of the matrix products; `auto` takes the faster on the devices that the run begins on. Weights, LayerNorm,
    softmax and losses are float32 in either case."""
    microbatches: int = free(1)
    """Parts of a batch that are computed one after the other, to save memory; the means are over the whole batch. Each
    part draws its own dropout: another number of them drops other elements."""
    prng: Prng = "threefry2x32"
    """Of the dropout. The others are said to be faster on TPUs (unmeasured here), but their numbers depend on the mesh,
    and they are not drawn in parts: measure the memory."""
    eval_every: int = free(1000)
    """Steps between evaluations on the held-out documents; also at the last step."""
    eval_rows: int = free(4096)
    """Most held-out rows an evaluation reads; the same ones, with the same masks, each time."""
    log_every: int = free(1)
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = free(False)
    """Also write TensorBoard events into the workdir (extra `tensorboard`)."""
    wandb_project: str | None = free(None)
    """Also log to this Weights & Biases project (extra `wandb`)."""
    profile_from: int | None = free(None)
    """First step, counted from 1, of a profiler's trace, which goes to WORKDIR/profile. The first step compiles."""
    profile_steps: int = free(5)
    """Steps of the trace."""

    def __post_init__(self) -> None:
        check_positive(
            steps=self.steps,
            batch_size=self.batch_size,
            microbatches=self.microbatches,
            eval_every=self.eval_every,
            eval_rows=self.eval_rows,
            log_every=self.log_every,
            profile_steps=self.profile_steps,
        )
        check_not_negative(seed=self.seed)
        if self.budget is not None:
            check(self.budget_seconds > 0, f"budget={self.budget!r} is not a time; write 30m, 1h30m or 90s")
        if self.profile_from is not None:
            check_positive(profile_from=self.profile_from)
            check(
                self.profiled.stop <= self.steps + 1,
                f"profile_from={self.profile_from}, profile_steps={self.profile_steps}: the last is step"
                f" {self.profiled.stop - 1}, but there are steps={self.steps}",
            )

    @property
    def budget_seconds(self) -> int:
        """The budget, 0 where it is no time."""
        parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", self.budget or "")
        return (
            sum(int(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0
        )

    @property
    def profiled(self) -> range:
        """The steps of which there is to be a trace, counted from 1."""
        return (
            range(0) if self.profile_from is None else range(self.profile_from, self.profile_from + self.profile_steps)
        )


@dataclasses.dataclass(frozen=True)
class Phase:
    """A later part of a run, on other rows: longer ones, as in Devlin et al. 2019, or of another corpus."""

    steps: int
    """How many, the last ones of `train.steps`, or those before the next phase."""
    batch_size: int
    """Rows of a step, over all devices (B)."""
    data: DataConfig
    """What is read and how it is masked."""
    microbatches: int = free(1)
    """Parts of a batch that are computed one after the other."""

    def __post_init__(self) -> None:
        check_positive(steps=self.steps, batch_size=self.batch_size, microbatches=self.microbatches)


@dataclasses.dataclass(frozen=True)
class Config:
    """A pretraining run."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    phases: tuple[Phase, ...] = ()
    """What comes after `data` and `train.batch_size`, the model and the optimizer carried over; most runs have none."""

    def __post_init__(self) -> None:
        longest = max(data.seq_len for data in (self.data, *(phase.data for phase in self.phases)))
        check(
            longest <= self.model.max_positions,
            f"data.seq_len={longest} is more than model.max_positions={self.model.max_positions}",
        )
        later = sum(phase.steps for phase in self.phases)
        check(later < self.train.steps, f"the {later} steps of phases leave nothing of train.steps={self.train.steps}")
        self.optimizer.check_fits(self.train.steps, f"train.steps={self.train.steps}")

    def with_steps(self, steps: int) -> Config:
        """Returns the config of so many steps; warm-up, decay and phases have the shares of them that they have here.

        Raises: ValueError if that leaves a phase without a step.
        """

        def scaled(part: int | None) -> int | None:
            return None if part is None else part * steps // self.train.steps

        warmup, decay = scaled(self.optimizer.warmup_steps), scaled(self.optimizer.decay_steps)
        return dataclasses.replace(
            self,
            train=dataclasses.replace(self.train, steps=steps),
            optimizer=dataclasses.replace(self.optimizer, warmup_steps=warmup, decay_steps=decay),
            phases=tuple(dataclasses.replace(phase, steps=scaled(phase.steps) or 0) for phase in self.phases),
        )

    def by_phase(self) -> list[tuple[range, Config]]:
        """Returns the steps of each phase, counted from 0, and the config as it is in that phase."""
        settings = [self]
        for phase in self.phases:
            train = dataclasses.replace(self.train, batch_size=phase.batch_size, microbatches=phase.microbatches)
            settings.append(dataclasses.replace(self, data=phase.data, train=train))
        later = [phase.steps for phase in self.phases]
        ends = [*itertools.accumulate([self.train.steps - sum(later), *later])]
        return [(range(*cut), c) for cut, c in zip(itertools.pairwise([0, *ends]), settings, strict=True)]

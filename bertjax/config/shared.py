"""What pretraining and fine-tuning have in common: optimizer, checkpoints, mesh."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bertjax.config.fields import check, check_not_negative, check_positive, check_share, free

Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """By default AdamW with linear warm-up and linear decay to zero (Devlin et al. 2019, appendix A.2)."""

    kind: Literal["adamw", "lamb"] = "adamw"
    """LAMB scales the update of each matrix of each layer by the matrix's norm: for batches of thousands of rows."""
    peak_lr: float = 1e-4
    """Learning rate at the end of the warm-up."""
    warmup_steps: int | None = 10_000
    """Steps over which the learning rate rises from 0; None takes a tenth of all."""
    schedule: Literal["linear", "stable"] = "linear"
    """How the learning rate goes on: `linear` falls to 0; `stable` stays, and falls in the last `decay_steps`."""
    decay_steps: int | None = None
    """Steps of the fall of a `stable` schedule, 1 minus a square root; None takes a tenth of all."""
    weight_decay: float = 0.01
    """Not applied to biases and LayerNorm."""
    b1: float = 0.9
    """Decay of the mean of the gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    epsilon: float = 1e-6
    """Added to the root of the mean square."""
    bias_correction: bool = True
    """False reproduces google-research/bert, whose Adam does not correct the means for their start at 0."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    layer_decay: float = 1.0
    """The learning rate of each layer is that of the one above times this, the heads' being the highest."""

    def __post_init__(self) -> None:
        check_positive(peak_lr=self.peak_lr, epsilon=self.epsilon, clip_norm=self.clip_norm)
        check(0 < self.layer_decay <= 1, f"layer_decay={self.layer_decay} is not above 0 and at most 1")
        check_not_negative(warmup_steps=self.warmup_steps or 0, weight_decay=self.weight_decay)
        check_not_negative(decay_steps=self.decay_steps or 0)
        check(
            self.decay_steps is None or self.schedule == "stable",
            f"decay_steps={self.decay_steps} belongs to schedule='stable'; schedule={self.schedule!r} always falls",
        )
        check_share(b1=self.b1, b2=self.b2)

    def check_fits(self, steps: int, name: str) -> None:
        """Raises ValueError if warm-up and fall take more than so many steps, which the message calls `name`."""
        warmup, decay = self.warmup_steps or 0, self.decay_steps or 0
        check(
            warmup < steps, f"optimizer.warmup_steps={self.warmup_steps} leaves nothing of {name}; None takes a tenth"
        )
        check(
            warmup + decay <= steps,
            f"optimizer.warmup_steps and decay_steps are {warmup + decay} together, more than {name};"
            " None takes a tenth",
        )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved and what is kept."""

    save_every: int = free(1000)
    """Steps between checkpoints; also at the last step and on SIGINT or SIGTERM."""
    keep: int = free(2)
    """Newest checkpoints that are kept, so that a damaged one has another before it."""
    keep_every: int | None = free(None)
    """Checkpoints at multiples of this many steps are kept for good."""

    def __post_init__(self) -> None:
        check_positive(save_every=self.save_every, keep=self.keep)
        if self.keep_every is not None:
            check_positive(keep_every=self.keep_every)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many ways the devices are divided; one of data, fsdp and model may be -1: what is left."""

    data: int = free(-1)
    """Ways the batch is cut, the weights copied."""
    fsdp: int = free(1)
    """Ways the batch is cut and the weights with it."""
    model: int = free(1)
    """Ways heads, feed-forward and vocabulary are cut (tensor parallelism)."""
    slices: int = free(-1)
    """TPU slices, or nodes of GPUs, that the data-centre network joins; -1 takes what is there, another number insists.
    `data` is cut over them first."""
    coordinator: str | None = free(None)
    """HOST:PORT of the first of several processes; `auto` lets JAX find it, as on TPU pods. None: what Slurm's srun or
    Open MPI's mpirun say, or else there is one process."""
    processes: int | None = free(None)
    """How many processes there are, with HOST:PORT."""
    process: int | None = free(None)
    """Which of them this is, from 0, with HOST:PORT."""
    heartbeat_seconds: int = free(30)
    """After so long without a sign of one process the others stop."""

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.model)
        check(all(s == -1 or s > 0 for s in sizes), f"mesh (data, fsdp, model) = {sizes}: use sizes above 0, or -1")
        check(sizes.count(-1) <= 1, f"mesh (data, fsdp, model) = {sizes}: only one of them can be -1")
        check(self.slices == -1 or self.slices > 0, f"slices={self.slices}: use a number above 0, or -1")
        check_positive(heartbeat_seconds=self.heartbeat_seconds)
        address, counts = self.coordinator, (self.processes, self.process)
        named = address not in (None, "auto")
        check(
            (None not in counts) if named else counts == (None, None),
            f"coordinator={address!r}, processes={self.processes}, process={self.process}: all three go together",
        )
        check(not named or ":" in str(address), f"coordinator={address!r} is not HOST:PORT")
        if self.processes is not None and self.process is not None:
            check(
                0 <= self.process < self.processes,
                f"process={self.process} is not between 0 and processes={self.processes}, exclusive",
            )

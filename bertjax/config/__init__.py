"""Every setting of a run, with its default: frozen dataclasses that check themselves when they are made.

A file under configs/ says what differs from the defaults, the command line overrides it (`--optimizer.peak_lr=3e-4`). A
field made by `free` may change when a run is resumed; a change to any other would bend the curve and is refused.
"""

from bertjax.config.finetuning import FinetuneConfig, Pooling, SweepConfig, TaskDataConfig, TaskTrainConfig
from bertjax.config.pretraining import Config, DataConfig, ModelConfig, Phase, Prng, TrainConfig
from bertjax.config.shared import CheckpointConfig, MeshConfig, OptimizerConfig, Precision

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "FinetuneConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Phase",
    "Pooling",
    "Precision",
    "Prng",
    "SweepConfig",
    "TaskDataConfig",
    "TaskTrainConfig",
    "TrainConfig",
]

r"""From which library does a docstring come? The quickstart's encoder learns to tell, no name of a library in sight.

    python finetune.py --config=configs/finetune/quickstart.py --workdir=runs/quickstart-library \
        --init_from=runs/quickstart

The texts are those of the pretraining with every library's and module's name masked out; the classes are balanced.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        init_from="runs/quickstart",
        data=TaskDataConfig(train="installed-docs", seq_len=64),
        optimizer=OptimizerConfig(peak_lr=5e-4, warmup_steps=None, b2=0.98),
        train=TaskTrainConfig(epochs=15, batch_size=32, pooling="mean", dropout=0.3, mask_rate=0.4),
    )

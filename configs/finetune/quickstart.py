r"""From which library's documentation is a sentence? The quickstart's encoder learns to tell, no name of one in sight.

    python finetune.py --config=configs/finetune/quickstart.py --workdir=runs/quickstart-library \
        --init_from=runs/quickstart

The sentences are those of the pretraining with every library's and module's name masked out; the classes are balanced.

Hardware  two CPU cores, 1.2 GB of memory, 1 to 3 minutes.
Figures   of 8 libraries: validation 56.0 % (a bag of words: 54.5 %), test 58.7 % (57.0 %) (docs/log.md).
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        init_from="runs/quickstart",
        data=TaskDataConfig(train="installed-docs", seq_len=64),
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=None, b2=0.98),
        train=TaskTrainConfig(epochs=6, batch_size=32, pooling="layers", dropout=0.3, mask_rate=0.3),
    )

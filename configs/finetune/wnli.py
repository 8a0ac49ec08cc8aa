r"""WNLI: is a pronoun replaced by what it stands for? 635 training and 71 validation examples, accuracy.

    python finetune.py --config=configs/finetune/wnli.py --workdir=runs/wnli --init_from=runs/bert_mini \
        --data.train=WNLI/train.tsv --data.validation=WNLI/dev.tsv \
        --data.test=WNLI/test.tsv

tfds:glue/wnli has the same columns, and names for labels.

Paper     Levesque et al. 2011; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="sentence1", second="sentence2", submission="WNLI", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=2e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

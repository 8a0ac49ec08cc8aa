r"""QNLI: does a sentence answer a question? 104,743 training and 5,463 validation examples, accuracy.

    python finetune.py --config=configs/finetune/qnli.py --workdir=runs/qnli --init_from=runs/bert_mini \
        --data.train=QNLI/train.tsv --data.validation=QNLI/dev.tsv \
        --data.test=QNLI/test.tsv

tfds:glue/qnli has the same columns and labels.

Paper     Rajpurkar et al. 2016; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="question", second="sentence", submission="QNLI", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

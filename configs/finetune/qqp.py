r"""QQP: do two questions ask the same? 363,846 training and 40,430 validation examples, accuracy and F1.

    python finetune.py --config=configs/finetune/qqp.py --workdir=runs/qqp --init_from=runs/bert_mini \
        --data.train=QQP/train.tsv --data.validation=QQP/dev.tsv \
        --data.test=QQP/test.tsv

Some rows of GLUE's train.tsv lack columns; they are left out and counted.

tfds:glue/qqp has names for labels: --data.label=label --data.positive=duplicate, so that F1 is that of equal questions.

Paper     Iyer et al. 2017; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(
            text="question1",
            second="question2",
            label="is_duplicate",
            submission="QQP",
            skip_bad_rows=True,
            seq_len=128,
        ),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32, metric="f1"),
    )

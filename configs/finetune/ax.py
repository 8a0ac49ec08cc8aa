r"""AX: GLUE's diagnostic set of 1,104 pairs without labels, predicted by the model of MNLI in its workdir.

    python finetune.py --config=configs/finetune/ax.py --workdir=runs/mnli --init_from=runs/bert_mini \
        --data.train=MNLI/train.tsv --data.validation=MNLI/dev_matched.tsv \
        --data.test=AX/diagnostic.tsv

In the workdir of a finished mnli.py nothing is trained again: the file is predicted with what is there.

tfds:glue/ax has other columns, and a test split only: --data.train=tfds:glue/mnli
--data.validation=tfds:glue/mnli#validation_matched --data.test=tfds:glue/ax --data.text=premise
--data.second=hypothesis --data.label=label.

Paper     Wang et al. 2019, section 4; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="sentence1", second="sentence2", label="gold_label", submission="AX", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

r"""SST-2: is a sentence of a film review positive? 67,349 training and 872 validation examples, accuracy.

    python finetune.py --config=configs/finetune/sst2.py --workdir=runs/sst2 --init_from=runs/bert_mini \
        --data.train=SST-2/train.tsv --data.validation=SST-2/dev.tsv [--data.test=SST-2/test.tsv]

tfds:glue/sst2 has the same columns, and names for labels.

Paper     Socher et al. 2013; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="sentence", submission="SST-2", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

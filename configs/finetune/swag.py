r"""SWAG: which of four ways does a situation go on? 73,546 training and 20,006 validation examples, accuracy.

    python finetune.py --config=configs/finetune/swag.py --workdir=runs/swag --init_from=runs/bert_mini \
        --data.train=SWAG/train.csv --data.validation=SWAG/val.csv [--data.test=SWAG/test.csv]

Each choice is the pair of `sent1` and `sent2` with an ending. For choices of your own name their columns with
--data.choices; --data.second=None where they have no common beginning.

Paper     Zellers et al. 2018; hyperparameters of Devlin et al. 2019, section 4.4, which has 86.6 % for BERT-large.
Hardware  any; an example is four pairs, so an hour on a few CPU cores with a small model.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="choice",
        data=TaskDataConfig(
            text="sent1",
            second="sent2",
            choices=("ending0", "ending1", "ending2", "ending3"),
            seq_len=128,
        ),
        optimizer=OptimizerConfig(peak_lr=2e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=16),
    )

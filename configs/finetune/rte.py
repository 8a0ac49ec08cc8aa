r"""RTE: does one text follow from another? 2,490 training and 277 validation examples, accuracy.

    python finetune.py --config=configs/finetune/rte.py --workdir=runs/rte --init_from=runs/bert_mini \
        --data.train=RTE/train.tsv --data.validation=RTE/dev.tsv \
        --data.test=RTE/test.tsv

tfds:glue/rte has the same columns and labels.

--init_from=runs/mnli starts from a model of MNLI (configs/finetune/mnli.py) under a new classifier, as for RoBERTa (Liu
et al. 2019, section 5.1); the set is small, and more seeds (--sweep) say what a figure is worth.

Paper     Dagan et al. 2006; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="sentence1", second="sentence2", submission="RTE", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=3e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

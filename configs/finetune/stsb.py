r"""STS-B: how alike are two sentences, from 0 to 5? 5,749 training and 1,500 validation examples, correlations.

    python finetune.py --config=configs/finetune/stsb.py --workdir=runs/stsb --init_from=runs/bert_mini \
        --data.train=STS-B/train.tsv --data.validation=STS-B/dev.tsv \
        --data.test=STS-B/test.tsv

sts-train.csv and the like of the STS benchmark itself have tabs and no header: --data.text=5 --data.second=6
--data.label=4.

--init_from=runs/mnli starts from a model of MNLI (configs/finetune/mnli.py) under a new classifier, as for RoBERTa (Liu
et al. 2019, section 5.1); the set is small, and more seeds (--sweep) say what a figure is worth.

tfds:glue/stsb has the score in another column, --data.label=label, and -1 in the test split, where it is not known.

Paper     Cer et al. 2017; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="regression",
        data=TaskDataConfig(text="sentence1", second="sentence2", label="score", submission="STS-B", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

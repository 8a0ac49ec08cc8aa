r"""MRPC: does one sentence say what the other says? 3,668 training and 408 validation examples, accuracy and F1.

    python finetune.py --config=configs/finetune/mrpc.py --workdir=runs/mrpc --init_from=runs/bert_mini \
        --data.train=MRPC/train.tsv --data.validation=MRPC/dev.tsv \
        --data.test=MRPC/test.tsv

msr_paraphrase_train.txt, as Microsoft distributes it, has the same columns.

--init_from=runs/mnli starts from a model of MNLI (configs/finetune/mnli.py) under a new classifier, as for RoBERTa (Liu
et al. 2019, section 5.1); the set is small, and more seeds (--sweep) say what a figure is worth.

tfds:glue/mrpc has other columns, and names for labels: --data.text=sentence1 --data.second=sentence2
--data.label=label --data.positive=equivalent, so that F1 is that of pairs that say the same.

Paper     Dolan and Brockett 2005; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="#1 String", second="#2 String", label="Quality", submission="MRPC", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32, metric="f1"),
    )

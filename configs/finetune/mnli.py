r"""MNLI: does a text follow from, contradict or leave open another? 392,702 and 9,815 examples, accuracy.

    python finetune.py --config=configs/finetune/mnli.py --workdir=runs/mnli --init_from=runs/bert_mini \
        --data.train=MNLI/train.tsv --data.validation=MNLI/dev_matched.tsv \
        --data.test=MNLI/test_matched.tsv

The mismatched files, of other genres than the training: --data.also MNLI/dev_mismatched.tsv evaluates them, and the
same command with --data.submission=MNLI-mm --data.test=MNLI/test_mismatched.tsv predicts with what was learned.

tfds:glue/mnli has other columns, and two splits of each kind to evaluate: --data.train=tfds:glue/mnli
--data.validation=tfds:glue/mnli#validation_matched --data.test=tfds:glue/mnli#test_matched --data.text=premise
--data.second=hypothesis --data.label=label; --data.also tfds:glue/mnli#validation_mismatched.

Paper     Williams et al. 2018; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="sentence1", second="sentence2", label="gold_label", submission="MNLI-m", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

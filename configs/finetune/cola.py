r"""CoLA: is a sentence grammatical? 8,551 training and 1,043 validation examples, Matthews correlation.

    python finetune.py --config=configs/finetune/cola.py --workdir=runs/cola --init_from=runs/bert_mini \
        --data.train=CoLA/train.tsv --data.validation=CoLA/dev.tsv \
        --data.test=CoLA/test.tsv

Its training and validation files have no header, its test file has one.

tfds:glue/cola has other columns, and names for labels: --data.text=sentence --data.label=label
--data.test_text=sentence.

Paper     Warstadt et al. 2019; Wang et al. 2019 (GLUE); hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model and a small set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        data=TaskDataConfig(text="3", label="1", test_text="sentence", submission="CoLA", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32, metric="matthews"),
    )

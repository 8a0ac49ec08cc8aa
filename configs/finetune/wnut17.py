r"""WNUT-17: new and rare names in posts of the web. 3,394 and 1,009 sentences, F1 of entities.

    python finetune.py --config=configs/finetune/wnut17.py --workdir=runs/wnut17 --init_from=runs/bert_mini \
        --data.train=wnut17/wnut17train.conll --data.validation=wnut17/emerging.dev.conll \
        --data.test=wnut17/emerging.test.annotated

Your own names: such columns, or .jsonl of {"tokens": [...], "tags": [...]} with --data.text=tokens --data.label=tags.

The columns are token and tag. predictions-test.conll is what conlleval takes.

Paper     Derczynski et al. 2017; hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="tagging",
        data=TaskDataConfig(text="0", label="1", seq_len=128, stride=64),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=4, batch_size=32),
    )

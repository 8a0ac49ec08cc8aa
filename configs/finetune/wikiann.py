r"""WikiANN: names of persons, places and organizations in Wikipedia. English: 20,000 and 10,000 sentences, F1.

    python finetune.py --config=configs/finetune/wikiann.py --workdir=runs/wikiann --init_from=runs/bert_mini \
        --data.train=wikiann-en/train --data.validation=wikiann-en/dev --data.test=wikiann-en/test

The columns are token and tag, and each token begins with its language: for others than English say
--data.token_prefix=de: and so on. tfds:wikiann/en has rows of tokens: --data.text=tokens --data.label=tags.

Paper     Pan et al. 2017; the split of Rahimi et al. 2019; hyperparameters within Devlin et al. 2019, appendix A.3.
Hardware  any; minutes on a few CPU cores with a small model.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="tagging",
        data=TaskDataConfig(text="0", label="1", seq_len=128, stride=64, token_prefix="en:"),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

"""A first BERT in a few minutes on two CPU cores, from the documentation that every installation carries.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Paper: Devlin et al. 2019, made small. Text: docstrings of the standard library and of the libraries bertjax stands on.
"""

from __future__ import annotations

from bertjax.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            width=256, layers=2, heads=4, mlp_width=1024, max_positions=128, dropout=0, attention_dropout=0
        ),
        data=DataConfig(path="installed-docs", seq_len=128),
        optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=None, b2=0.98),
        train=TrainConfig(steps=2000, batch_size=32, eval_every=250, eval_rows=1024),
        checkpoint=CheckpointConfig(save_every=250),
    )

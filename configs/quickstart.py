"""A first BERT in a few minutes on two CPU cores, from the documentation that every installation carries.

    python train.py --config=configs/quickstart.py --workdir=runs/quickstart

Paper     Devlin et al. 2019, made small; 40 % of the tokens masked (Wettig et al. 2023): more to learn from each row.
Text      docstrings of the standard library and of the libraries that bertjax stands on.
Hardware  two CPU cores, 1.5 GB of memory, 2 to 6 minutes.
Figures   held out: masked-LM loss 5.12 nat and accuracy 21.0 %, next-sentence accuracy 68.0 % (docs/log.md).
"""

from __future__ import annotations

from bertjax.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            width=128,
            layers=2,
            heads=4,
            mlp_width=512,
            max_positions=64,
            dropout=0,  # no row is read more than a few times
            attention_dropout=0,
            init_std=0.04,  # with 4 heads and this learning rate the best of a few short trials
        ),
        data=DataConfig(path="installed-docs", seq_len=64, max_predictions=26, mask_rate=0.4),
        optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=None, b2=0.98),
        train=TrainConfig(steps=1800, batch_size=32, eval_every=300, eval_rows=2048),
        checkpoint=CheckpointConfig(save_every=300),
    )

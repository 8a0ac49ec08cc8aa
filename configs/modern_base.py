"""ModernBERT-base's model and recipe for rows of 1,024: 30 % of the tokens masked, no next sentences, 22 layers.

Paper     Warner et al. 2024 (arXiv 2412.13663), sections 2 and 3: learning rate 8e-4 that stays and at last falls as 1
          minus a square root, betas 0.9 and 0.98, decay 1e-5, no dropout but 0.1 behind attention, which is left out
          here. Its 1.7e12 tokens in batches of 4,608 rows are here 4.6e10 in batches of 448; its optimizer also clips
          the updates weight by weight.
Command   python train.py --config=configs/modern_base.py --workdir=runs/modern_base --data.path=CORPUS,
          of `bertjax prepare ... --output=CORPUS --no-nsp --seq-len 1024`
Hardware  a GPU with bfloat16 and 40 GB, better eight of them, or a TPU slice.
Hours     not measured yet.
Figures   not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            family="modernbert",
            layers=22,
            mlp_width=1152,
            max_positions=1024,
            dropout=0,
            attention_dropout=0,
            norm_epsilon=1e-5,
        ),
        data=DataConfig(seq_len=1024, mask_rate=0.3, max_predictions=308),
        optimizer=OptimizerConfig(
            peak_lr=8e-4, schedule="stable", warmup_steps=1_000, decay_steps=10_000, weight_decay=1e-5, b2=0.98
        ),
        train=TrainConfig(steps=100_000, batch_size=448, precision="bfloat16"),
    )

"""The modern recipe at BERT-mini's size: as much arithmetic in the blocks, the head at twice as many positions.

Paper     Warner et al. 2024 (arXiv 2412.13663): ModernBERT's block, 30 % of the tokens masked, no next sentences, a
          learning rate that stays and at last falls as 1 minus a square root. Its peak is that of configs/bert_mini.py,
          so that the two compare.
Command   python train.py --config=configs/modern_mini.py --workdir=runs/modern_mini --data.path=CORPUS,
          of `bertjax prepare ... --output=CORPUS --no-nsp`
          A shorter try: --train.budget=1h
Hardware  one GPU or TPU; a shorter try on a few CPU cores.
Hours     not measured yet.
Figures   3.59 nat held out after half an hour on two CPU cores, batches of 32, English Wikipedia (docs/log.md);
          configs/bert_mini.py then has 6.21.
"""

from __future__ import annotations

from bertjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(
            family="modernbert",
            layers=4,
            width=256,
            heads=4,
            mlp_width=672,  # three matrices of it are near two of 1,024; a multiple of 32
            dropout=0,
            attention_dropout=0,
            norm_epsilon=1e-5,
        ),
        data=DataConfig(mask_rate=0.3, max_predictions=39),
        optimizer=OptimizerConfig(schedule="stable", b2=0.98),
        train=TrainConfig(precision="auto"),
    )

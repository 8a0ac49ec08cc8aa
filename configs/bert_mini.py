"""BERT-mini: 4 layers of width 256, 11 M parameters.

Paper     Turc et al. 2019, Well-Read Students Learn Better (arXiv 1908.08962): Devlin's recipe, a smaller model.
Command   python train.py --config=configs/bert_mini.py --workdir=runs/bert_mini --data.path=CORPUS
          A shorter try: --train.steps=20000 --optimizer.warmup_steps=1000
Hardware  one GPU or TPU; a shorter try on a few CPU cores.
Hours     not measured yet.
Figures   GLUE test score 65.8, SST-2 85.9 (google-research/bert, README). Ours: 6.21 nat held out after half an hour on
          two CPU cores, batches of 32 (docs/log.md); configs/modern_mini.py then has 3.59.
"""

from __future__ import annotations

from bertjax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=4, width=256, heads=4, mlp_width=1024),
        train=TrainConfig(precision="auto"),
    )

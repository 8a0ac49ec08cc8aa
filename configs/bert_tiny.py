"""BERT-tiny: 2 layers of width 128, 4.4 M parameters.

Paper     Turc et al. 2019, Well-Read Students Learn Better (arXiv 1908.08962): Devlin's recipe, a smaller model.
Command   python train.py --config=configs/bert_tiny.py --workdir=runs/bert_tiny --data.path=CORPUS
          A shorter try: --train.steps=20000 --optimizer.warmup_steps=1000
Hardware  a few CPU cores, or any one GPU or TPU.
Hours     not measured yet.
Figures   GLUE test score 64.2, SST-2 83.2 (google-research/bert, README); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=2, width=128, heads=2, mlp_width=512),
        train=TrainConfig(precision="auto"),
    )

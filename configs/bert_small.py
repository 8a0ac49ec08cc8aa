"""BERT-small: 4 layers of width 512, 29 M parameters.

Paper     Turc et al. 2019, Well-Read Students Learn Better (arXiv 1908.08962): Devlin's recipe, a smaller model.
Command   python train.py --config=configs/bert_small.py --workdir=runs/bert_small --data.path=CORPUS
Hardware  one GPU or TPU.
Hours     not measured yet.
Figures   GLUE test score 71.2, SST-2 89.7 (google-research/bert, README); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=4, width=512, heads=8, mlp_width=2048),
        train=TrainConfig(precision="auto"),
    )

"""BERT-large: 24 layers of width 1024, 336 M parameters, in bfloat16.

Paper     Devlin et al. 2019 (arXiv 1810.04805), section 3 and appendix A.2. The paper trains the last tenth of the
          steps at 512 positions; this page is the first phase, at 128, with its learning rate falling to 0.
          google-research/bert also has gelu="tanh" and bias_correction=False.
Command   python train.py --config=configs/bert_large.py --workdir=runs/bert_large --data.path=CORPUS
Hardware  eight GPUs with bfloat16 and 40 GB, or a TPU slice.
Hours     not measured yet. A million steps of 256 x 128 tokens take 6.2e19 FLOP (1.88 GFLOP a token).
Figures   SST-2 94.9, MNLI 86.7 on the test sets (Devlin et al. 2019, table 1, both phases); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, ModelConfig, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=24, width=1024, heads=16, mlp_width=4096),
        train=TrainConfig(precision="bfloat16"),
    )

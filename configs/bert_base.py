"""BERT-base: 12 layers of width 768, 110 M parameters; the defaults, in bfloat16.

Paper     Devlin et al. 2019 (arXiv 1810.04805), section 3 and appendix A.2. The paper trains the last tenth of the
          steps at 512 positions; this page is the first phase, at 128, with its learning rate falling to 0.
          google-research/bert also has gelu="tanh" and bias_correction=False.
Command   python train.py --config=configs/bert_base.py --workdir=runs/bert_base --data.path=CORPUS
Hardware  a GPU with bfloat16 and 40 GB, better eight of them, or a TPU slice.
Hours     not measured yet. A million steps of 256 x 128 tokens take 1.8e19 FLOP (546 MFLOP a token).
Figures   SST-2 93.5, MNLI 84.6 on the test sets (Devlin et al. 2019, table 1, both phases); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, TrainConfig


def get_config() -> Config:
    return Config(train=TrainConfig(precision="bfloat16"))

"""BERT-large: 24 layers of width 1024, 336 M parameters, in bfloat16.

Paper     Devlin et al. 2019 (arXiv 1810.04805), section 3 and appendix A.2: nine tenths of the steps at 128
          positions, the last tenth at 512. google-research/bert also has gelu="tanh" and bias_correction=False.
Command   python train.py --config=configs/bert_large.py --workdir=runs/bert_large --data.path=CORPUS/128
          --phases.0.data.path=CORPUS/512, of `bertjax prepare ... --output=CORPUS --seq-len 128 512`
Hardware  eight GPUs with bfloat16 and 40 GB, or a TPU slice.
Hours     36 of one H200 for the steps at 128, at 227,000 tokens a second, and 20 for those at 512, at 182,000
          (docs/log.md). They take 5.5e19 FLOP (1.88 GFLOP a token) and 2.6e19 (1.99).
Figures   SST-2 94.9, MNLI 86.7 on the test sets (Devlin et al. 2019, table 1, both phases); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, DataConfig, ModelConfig, Phase, TrainConfig


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=24, width=1024, heads=16, mlp_width=4096),
        train=TrainConfig(precision="bfloat16"),
        phases=(Phase(100_000, batch_size=256, data=DataConfig(seq_len=512, max_predictions=77)),),
    )

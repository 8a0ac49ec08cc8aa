"""BERT-large in 15,625 steps of 32,768 rows, by LAMB.

Paper     You et al. 2020 (arXiv 1904.00962), table 1 and appendix: batch 32k, 15,625 steps, learning rate 5e-3 after a
          warm-up over a fifth of the steps; nine tenths at 128 positions, the last tenth at 512.
Command   python train.py --config=configs/bert_large_lamb.py --workdir=runs/bert_large_lamb --data.path=CORPUS/128
          --phases.0.data.path=CORPUS/512, of `bertjax prepare ... --output=CORPUS --seq-len 128 512`
          On fewer devices: --train.microbatches=8 --phases.0.microbatches=32
Hardware  a pod: the paper had 1,024 TPU v3 chips.
Hours     not measured yet; the paper took 1.7. The steps at 128 take 1.1e20 FLOP (1.88 GFLOP a token), those at 512
          5.2e19 (1.99).
Figures   SQuAD 1.1 F1 91.46 (table 1 of its first version), of the baseline 90.40; ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, DataConfig, ModelConfig, OptimizerConfig, Phase, TrainConfig

BATCH_SIZE = 32_768


def get_config() -> Config:
    return Config(
        model=ModelConfig(layers=24, width=1024, heads=16, mlp_width=4096),
        optimizer=OptimizerConfig(kind="lamb", peak_lr=5e-3, warmup_steps=3_125),
        train=TrainConfig(steps=15_625, batch_size=BATCH_SIZE, precision="bfloat16"),
        phases=(Phase(1_562, batch_size=BATCH_SIZE, data=DataConfig(seq_len=512, max_predictions=77)),),
    )

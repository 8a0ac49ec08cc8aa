"""BERT-base: 12 layers of width 768, 110 M parameters; the defaults, in bfloat16.

Paper     Devlin et al. 2019 (arXiv 1810.04805), section 3 and appendix A.2: nine tenths of the steps at 128
          positions, the last tenth at 512. google-research/bert also has gelu="tanh" and bias_correction=False.
Command   python train.py --config=configs/bert_base.py --workdir=runs/bert_base --data.path=CORPUS/128
          --phases.0.data.path=CORPUS/512, of `bertjax prepare ... --output=CORPUS --seq-len 128 512`
Hardware  a GPU with bfloat16 and 40 GB, better eight of them, or a TPU slice.
Hours     12 of one H200 for the steps at 128, at 698,000 tokens a second, and 7 for those at 512, at 547,000
          (docs/log.md). They take 1.6e19 FLOP (546 MFLOP a token) and 0.8e19 (588).
Figures   SST-2 93.5, MNLI 84.6 on the test sets (Devlin et al. 2019, table 1, both phases); ours are not measured yet.
"""

from __future__ import annotations

from bertjax.config import Config, DataConfig, Phase, TrainConfig


def get_config() -> Config:
    return Config(
        train=TrainConfig(precision="bfloat16"),
        phases=(Phase(100_000, batch_size=256, data=DataConfig(seq_len=512, max_predictions=77)),),
    )

r"""SQuAD 1.1: which words of a paragraph answer the question? 87,599 and 10,570 questions, exact match and F1.

    python finetune.py --config=configs/finetune/squad.py --workdir=runs/squad --init_from=runs/bert_base \
        --data.train=SQuAD/train-v1.1.json --data.validation=SQuAD/dev-v1.1.json

A model of 128 positions needs --data.seq_len=128 --data.stride=64. predictions-validation.json is what the official
evaluate-v1.1.py takes; the figures here are its own, as shares. Your own questions can also stand in .jsonl, of
{"question": ..., "context": ..., "answers": [{"text": ..., "answer_start": ...}]}; tfds:squad/v1.1 has such rows.

Paper     Rajpurkar et al. 2016; windows as google-research/bert, run_squad.py; hyperparameters of Devlin et al. 2019,
          section 4.2 (BERT-large there: batches of 32, 5e-5, 3 epochs).
Hardware  one GPU for BERT-base; on a few CPU cores a small model with --data.examples=10000.
Expected  Devlin et al. 2019, table 2: BERT-base 80.8 exact match, 88.5 F1 on the development set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="answers",
        data=TaskDataConfig(seq_len=384, stride=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

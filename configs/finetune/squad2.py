r"""SQuAD 2.0: as 1.1, but some questions have no answer in their paragraph. 130,319 and 11,873 questions.

    python finetune.py --config=configs/finetune/squad2.py --workdir=runs/squad2 --init_from=runs/bert_base \
        --data.train=SQuAD/train-v2.0.json --data.validation=SQuAD/dev-v2.0.json

tfds:squad/v2.0 has the same questions.

Above a threshold of doubt, which the validation file chooses for the best F1, no answer is given; it is kept for test
files and for `bertjax predict answer`. predictions-validation.json is what the official evaluate-v2.0.py takes, and
predictions-validation-doubts.json its --na-prob-file, with --na-prob-thresh=THRESHOLD, the `eval_threshold` of the best
step in metrics.jsonl: doubts are differences of logits, and the evaluator's own threshold, 1.0, is for probabilities.

Paper     Rajpurkar et al. 2018; hyperparameters of Devlin et al. 2019, section 4.3 (BERT-large there: batches of 48,
          5e-5, 2 epochs).
Hardware  one GPU for BERT-base.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="answers",
        data=TaskDataConfig(seq_len=384, stride=128, unanswerable=True),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=2, batch_size=48),
    )

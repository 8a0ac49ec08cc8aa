r"""CoNLL-2003: names of persons, places, organizations and others in news. 14,041 and 3,250 sentences, F1 of entities.

    python finetune.py --config=configs/finetune/conll2003.py --workdir=runs/conll2003 --init_from=runs/bert_base \
        --data.train=conll2003/eng.train --data.validation=conll2003/eng.testa --data.test=conll2003/eng.testb

The columns are token, part of speech, chunk, name; tags may be IOB1, as they were distributed, BIO2 or IOBES. A cased
model knows names better. predictions-test.conll is what conlleval takes. Each sentence is read with what stands around
it in its document, as much as fits; --data.context=0 reads it alone.

tfds:conll2003 has no documents, and its split to validate is `dev`: --data.train=tfds:conll2003
--data.validation=tfds:conll2003#dev --data.test=tfds:conll2003 --data.context=0 --data.text=tokens --data.label=ner.

Paper     Tjong Kim Sang and De Meulder 2003; document context as Devlin et al. 2019, section 5.3; hyperparameters
          within their appendix A.3.
Hardware  one GPU for BERT-base; a small model in an hour on a few CPU cores.
Expected  Devlin et al. 2019, table 7: BERT-base, cased, 96.4 F1 on the development set, 92.4 on the test set.
"""

from __future__ import annotations

from bertjax.config import FinetuneConfig, OptimizerConfig, TaskDataConfig, TaskTrainConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="tagging",
        data=TaskDataConfig(text="0", label="3", seq_len=128, stride=64, context=128),
        optimizer=OptimizerConfig(peak_lr=5e-5, warmup_steps=None),
        train=TaskTrainConfig(epochs=3, batch_size=32),
    )

"""Tags of tokens, such as named entities: rows of sentences, head, loss, figures of entities, predictions.

The first piece of a word speaks for it (Devlin et al. 2019, section 5.3). Whatever scheme the file's tags have, the
model learns BIO2.
Shape letters: B batch (rows), S position, C tags, W words of a sentence, T pieces, N rows.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import hosts
from bertjax.config import TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.model import layers
from bertjax.model.assembly import Assembly, Blueprint, classifier_heads
from bertjax.tasks import conll
from bertjax.tasks.batches import Features
from bertjax.tasks.conll import Sentence
from bertjax.tasks.tables import has_objects
from bertjax.tasks.task import Outputs, Part, Task, drawn, files_of
from bertjax.tasks.text_examples import say_absent
from bertjax.tasks.windows import Window, say_apart, widest_view, windows_over
from bertjax.training.losses import Sums, cross_entropy_sums


@dataclasses.dataclass(frozen=True)
class Reading:
    """A sentence, and where each of its words is told: the row among the file's, and the position in it."""

    sentence: Sentence
    row_W: np.ndarray
    position_W: np.ndarray
    windows: list[Window]


class Around(NamedTuple):
    """The pieces before and behind a sentence that may be read with it."""

    before: Sequence[int]
    behind: Sequence[int]


def make_task(data: TaskDataConfig, tokenizer: Tokenizer, seed: int) -> Task:
    """Returns the task of tagging the tokens of CoNLL's columns, or of the rows of a .jsonl or TFDS data set.

    Raises: UserError, with file and line, for what is wrong in a file.
    """
    if data.examples_per_class is not None:
        raise UserError(f"data.examples_per_class={data.examples_per_class}, but tags are no classes; leave it out")
    sentences = {name: _sentences(name, path, data) for name, path in files_of(data).items()}
    labels = tag_names(sentences["train"])
    _say_unknown(sentences, labels)
    say_absent(data.validation, _kinds(sentences["train"]) - _kinds(sentences["validation"]))
    chosen = drawn(range(len(sentences["train"])), data.examples, seed)
    parts = {
        name: Part(*read(found, tokenizer, data, labels, chosen if name == "train" else None))
        for name, found in sentences.items()
    }
    for name, part in parts.items():
        say_apart(name, "sentences", (reading.windows for reading in part.examples), data.stride)
    return Task(
        labels=labels,
        metrics=("f1", "precision", "recall", "accuracy"),
        parts=parts,
        baselines={"lexicon_f1": _lexicon_f1(sentences["train"], sentences["validation"])},
        make_model=lambda c, _, rngs: Assembly(
            Blueprint(c, classifier_heads(c, "tagging"), "tagging", labels), rngs=rngs
        ),
        loss=tagging_loss,
        outputs=logits,
        figures=lambda part, outputs, _: _figures(part, outputs, labels),
        write=lambda path, part, outputs, _: conll.write_columns(
            path.with_suffix(".conll"), *_predicted(part, outputs, labels)
        ),
    )


def _sentences(name: str, path: str, data: TaskDataConfig) -> list[Sentence]:
    """Returns a file's sentences, their tags BIO2."""
    how: dict[str, Any] = {"tags_required": name != "test", "prefix": data.token_prefix}
    if has_objects(path):
        found = conll.read_rows_of_tokens(path, data.text, data.label, **how)
    elif all(column.removeprefix("-").isdecimal() for column in (data.text, data.label)):
        found = conll.read_sentences(path, int(data.text), int(data.label), **how)
    else:
        raise UserError(
            f"data.text={data.text!r}, data.label={data.label!r}: the columns of tokens and tags are numbers, from 0;"
            " -1 is the last"
        )
    if data.context and found[-1].document < 0:
        raise UserError(
            f"data.context={data.context}, but {path} has no documents; begin each with a line {conll.DOCUMENT}, or"
            " use --data.context=0"
        )
    return [
        s if s.tags is None else dataclasses.replace(s, tags=tuple(conll.bio_tags(conll.entities(s.tags), len(s.tags))))
        for s in found
    ]


def tag_names(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """Returns O, and for each name that occurs B- and I-. Raises: UserError if none does."""
    kinds = _kinds(sentences)
    if not kinds:
        raise UserError(f"every tag of the training file is {conll.OUTSIDE}; there is nothing to learn")
    return (conll.OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI"))


def _kinds(sentences: Sequence[Sentence]) -> set[str]:
    """Returns the names that occur."""
    return {tag[2:] for sentence in sentences for tag in sentence.tags or () if tag != conll.OUTSIDE}


def _say_unknown(sentences: Mapping[str, list[Sentence]], labels: tuple[str, ...]) -> None:
    """Prints which names only the other files have: they are scored, and never right."""
    for name, found in sentences.items():
        tags = [tag for sentence in found for tag in sentence.tags or () if tag[0] == "B"]
        unknown = [tag[2:] for tag in tags if tag not in labels]
        if unknown:
            kinds = ", ".join(sorted(set(unknown)))
            hosts.say(f"{name}: {len(unknown)} entities of names that the training file lacks: {kinds}")


def read(
    sentences: Sequence[Sentence],
    tokenizer: Tokenizer,
    data: TaskDataConfig,
    labels: Sequence[str],
    chosen: Sequence[int] | None = None,
) -> tuple[list[Reading], Features]:
    """Returns the sentences as rows [CLS] pieces [SEP], with `tags` at the words' first pieces, each once.

    A sentence that is too long has a row for each window; others are read with the context that fits. `chosen` are the
    numbers of the sentences to be told, None all; the others are context.
    """
    number = {label: i for i, label in enumerate(labels)}
    pieces = _word_pieces(sentences, tokenizer)
    flat = [[piece for word in words for piece in word] for words in pieces]
    rows: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    readings = []
    for i in range(len(sentences)) if chosen is None else chosen:
        sentence, first_row = sentences[i], len(rows)
        first_W = np.cumsum([0, *map(len, pieces[i])])[:-1]
        windows = windows_over(len(flat[i]), data.seq_len - 2, data.stride)
        around = _around(sentences, flat, i, data.context)
        made, row_W, position_W = _rows(flat[i], first_W, around, windows, data.seq_len - 2)
        rows += [np.array([tokenizer.cls_id, *row, tokenizer.sep_id], np.int32) for row in made]
        targets += [np.full(len(row) + 2, -1, np.int32) for row in made]
        for tag, row, position in zip(sentence.tags or (), row_W, position_W, strict=sentence.tags is not None):
            targets[first_row + row][position] = number.get(tag, -1)
        readings.append(Reading(sentence, first_row + row_W, position_W, windows))
    segments = [np.zeros_like(row) for row in rows]
    return readings, Features(rows, segments, {}, tokenizer.pad_id, token_targets={"tags": targets})


def _word_pieces(sentences: Sequence[Sentence], tokenizer: Tokenizer) -> list[list[list[int]]]:
    """Returns the pieces of each word; a word of which nothing is left is [UNK], so that it can be told."""
    pieces_of: dict[str, list[int]] = {}
    for word in {token for sentence in sentences for token in sentence.tokens}:
        # BPE has the space before a word in its first piece; WordPiece drops it.
        pieces_of[word] = tokenizer.encode(f" {word}").tolist() or [tokenizer.unk_id]
    return [[pieces_of[token] for token in sentence.tokens] for sentence in sentences]


def _around(sentences: Sequence[Sentence], flat: Sequence[list[int]], i: int, most: int) -> Around:
    """Returns at most so many pieces on either side of sentence `i`, from its document."""

    def gathered(order: Sequence[int]) -> list[list[int]]:
        found: list[list[int]] = []
        for j in order:
            if sum(map(len, found)) >= most or sentences[j].document != sentences[i].document:
                break
            found.append(flat[j])
        return found

    before = [piece for one in reversed(gathered(range(i - 1, -1, -1))) for piece in one]
    behind = [piece for one in gathered(range(i + 1, len(sentences))) for piece in one]
    return Around(before[max(0, len(before) - most) :], behind[:most])


def _rows(
    pieces: list[int], first_W: np.ndarray, around: Around, windows: list[Window], room: int
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Returns the rows of a sentence without special tokens, and row and position of each word, [CLS] counted."""
    row_W = widest_view(windows, len(pieces))[first_W]
    position_W = 1 + first_W - np.array([window.first for window in windows])[row_W]
    if len(windows) > 1:
        return [pieces[first : first + size] for first, size in windows], row_W, position_W
    free = room - len(pieces)
    # Half of what is free on either side, more where the other side has less.
    left = min(len(around.before), max(free // 2, free - len(around.behind)))
    right = min(len(around.behind), free - left)
    before = around.before[len(around.before) - left :]
    return [[*before, *pieces, *around.behind[:right]]], row_W, position_W + left


def logits(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None = None) -> jax.Array:
    """Returns logits_BSC, float32; dropout, also on the last hidden states, is on exactly when `key` is given."""
    encoder_key, head_key = layers.split(key, 2)
    rows = batch["ids"], batch["segments"], batch["positions"], batch["spans"]
    x_BSD = model.encoder(*rows, key=encoder_key, most_spans=1)
    x_BSD = layers.dropout(x_BSD, model.encoder.c.dropout, head_key)
    return model.token_logits(x_BSD).astype(jnp.float32)


def tagging_loss(model: Assembly, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Sums:
    """Returns the cross entropy (nats) and the accuracy of the words of the batch."""
    told_BS = batch["tags"] >= 0
    weights_BS = told_BS * batch["weights"][:, None]
    return cross_entropy_sums(logits(model, batch, key), jnp.where(told_BS, batch["tags"], 0), weights_BS, "")


def words_of(text: str) -> list[tuple[int, int]]:
    """Returns the places of a text's words: white space parts them, marks and symbols at their ends are words, too.

    That is near to how CoNLL's texts are parted. `@name` and `#topic` stay whole.
    """
    words: list[tuple[int, int]] = []
    for found in re.finditer(r"\S+", text):
        start, end = found.span()
        while start < end - 1 and _is_mark(text[start]) and text[start] not in "@#":
            words.append((start, start + 1))
            start += 1
        first_mark = end
        while first_mark > start + 1 and _is_mark(text[first_mark - 1]):
            first_mark -= 1
        words += [(start, first_mark), *((place, place + 1) for place in range(first_mark, end))]
    return words


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def told(reading: Reading, outputs: Outputs) -> np.ndarray:
    """Returns logits_WC of a sentence's words."""
    return np.stack([outputs[row][position] for row, position in zip(reading.row_W, reading.position_W, strict=True)])


def tags_of(logits_WC: np.ndarray, labels: Sequence[str]) -> list[str]:
    """Returns the likeliest tags, an entity that begins with I- begun with B-; a label that is none names its word."""
    likeliest = [labels[i] if conll.is_tag(labels[i]) else f"S-{labels[i]}" for i in logits_WC.argmax(axis=1)]
    return conll.bio_tags(conll.entities(likeliest), len(likeliest))


def _predicted(part: Part, outputs: Outputs, labels: Sequence[str]) -> tuple[list[Sentence], list[list[str]]]:
    sentences = [reading.sentence for reading in part.examples]
    return sentences, [tags_of(told(reading, outputs), labels) for reading in part.examples]


def _figures(part: Part, outputs: Outputs, labels: Sequence[str]) -> dict[str, float]:
    """Returns the loss over words whose tag the training file has, and the figures of entities."""
    lost = []
    for tags_S, logits_SC in zip(part.features.token_targets["tags"], outputs, strict=True):
        told_S = np.flatnonzero(tags_S >= 0)
        wide_WC = logits_SC[told_S].astype(np.float64)
        lost.append(np.logaddexp.reduce(wide_WC, axis=1) - wide_WC[np.arange(len(told_S)), tags_S[told_S]])
    sentences, predicted = _predicted(part, outputs, labels)
    figures = conll.entity_metrics([sentence.tags or () for sentence in sentences], predicted)
    return {"loss": float(np.concatenate(lost).mean())} | figures


def _lexicon_f1(train: Sequence[Sentence], held_out: Sequence[Sentence]) -> float:
    seen = conll.entities_seen(train)
    look_up = functools.partial(conll.looked_up, seen=seen, longest=max(map(len, seen), default=0))
    found = [look_up(sentence.tokens) for sentence in held_out]
    return conll.entity_metrics([sentence.tags or () for sentence in held_out], found)["f1"]

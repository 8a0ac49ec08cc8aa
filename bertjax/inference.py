"""A trained model for use: words for [MASK], vectors of texts and tokens, classes, answers to questions, named parts.

Shape letters: B batch (rows), S position, D width, M masked positions, V vocabulary, N texts, K candidates, C classes,
W words.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, get_args

import jax
import numpy as np
from flax import nnx

from bertjax import forward, pretrained
from bertjax.config import MeshConfig, ModelConfig, TaskDataConfig
from bertjax.data.packing import pack
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.forward import PER_ROW, Pooling
from bertjax.model.assembly import OF_TEXTS, Assembly, Blueprint, Task
from bertjax.model.encoder import Encoder, check_mesh
from bertjax.model.params import Params
from bertjax.sharding import batch_shards, make_mesh
from bertjax.tasks import answers, choices, classification, conll, tagging, text_examples
from bertjax.tasks.batches import Features, batches_of_tokens, make_batch, padded_lengths, side_by_side
from bertjax.tasks.squad import Question
from bertjax.texts import SHORTEN, Text, check_lengths, shown, texts_of
from bertjax.training.step import Batch, to_mesh

ROW = 128
"""Positions of such a row, if its texts are not longer: a short one leaves more of them over."""


class Candidate(TypedDict):
    """A piece for a [MASK]; `text` has it in its place."""

    token: str
    id: int
    probability: float
    text: str


class Classification(TypedDict):
    """The likeliest label of a text, and the probability of every label.

    Of several labels a text may have any number: then `labels` are those with a probability above one half.
    """

    label: str
    labels: NotRequired[list[str]]
    probability: float
    probabilities: dict[str, float]


class Answer(TypedDict):
    """The words of a text that answer a question, where they stand in it (characters), and their probability.

    "" is that there is no answer; only models that were trained on such questions give it.
    """

    answer: str
    start: int
    end: int
    probability: float


class Choice(TypedDict):
    """The right one of several ways to go on, its number from 0, and the probabilities of all."""

    choice: int
    way: str
    probabilities: list[float]


class NamedPart(TypedDict):
    """A part of a text, its name, where it stands (characters), and the probability of its least likely word's tag."""

    name: str
    text: str
    start: int
    end: int
    probability: float


class Tokens(NamedTuple):
    """The word pieces of a text, where each begins and ends in it (characters), and their vectors, float32 [n, D].

    Where all layers were asked for, they are [L + 1, n, D], the embeddings first.
    """

    pieces: list[str]
    offsets: list[tuple[int, int]]
    vectors: np.ndarray


class Attentions(NamedTuple):
    """The pieces of a text, [CLS] and [SEP] among them, and how each layer's heads attend, float32 [L, H, n, n].

    `weights[layer, head, s]` sums to 1: the shares of all pieces in what piece s takes.
    """

    pieces: list[str]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model, its weights and its tokenizer. Whatever is wrong with a text is a UserError that says which and why."""

    config: ModelConfig
    tokenizer: Tokenizer
    graphdef: nnx.GraphDef[Any]
    params: Params
    mesh: jax.sharding.Mesh
    labels: tuple[str, ...] = ()
    """Of a classifier, in the order of its logits."""
    task: Task = "pretraining"
    """What the model was trained for."""
    reading: TaskDataConfig | None = None
    """How its fine-tuning read texts; None where that is not known."""
    threshold: float | None = None
    """Doubt above which a question has no answer; None where each has one."""

    @property
    def encoder(self) -> Encoder:
        """The encoder, to be called under `jax.set_mesh(model.mesh)`."""
        encoder: Encoder = nnx.merge(self.graphdef, self.params).encoder
        return encoder

    @property
    def seq_len(self) -> int:
        """Most tokens of an example, special ones included: the fine-tuning's, or as many as it has positions."""
        return self.config.max_positions if self.reading is None else self.reading.seq_len

    @property
    def of_pairs(self) -> bool | None:
        """Whether it was fine-tuned on pairs of texts; None where that is not known."""
        if self.reading is None or self.task not in OF_TEXTS:
            return None
        return self.reading.second is not None

    @property
    def _windows(self) -> TaskDataConfig:
        """How texts longer than a row are read: as in the fine-tuning, or by 384 tokens, as for SQuAD."""
        length = min(384, self.config.max_positions)
        return self.reading or TaskDataConfig(seq_len=length, stride=length // 3)

    def fill_mask(self, texts: str | Sequence[str], top_k: int = 5) -> list[Any]:
        """Returns for each [MASK] of a text its `top_k` likeliest Candidates; of several texts, a list of that each."""
        if "masked_lm" not in self.params:
            raise UserError("this model has no masked-LM head: load the folder of the pretraining")
        if not 1 <= top_k <= self.tokenizer.vocab_size:
            raise UserError(f"top_k={top_k} is not between 1 and the {self.tokenizer.vocab_size} of the vocabulary")
        checked = texts_of(texts)
        ids = [self._ids_with_masks(text, i) for i, text in enumerate(checked)]
        check_lengths(ids, self.config.max_positions, "shorten it")
        masked = [np.flatnonzero(row == self.tokenizer.mask_id) for row in ids]
        masked_NM = np.zeros((len(ids), _power_of_two(max(map(len, masked), default=1))), np.int32)
        for row_M, positions in zip(masked_NM, masked, strict=True):
            row_M[: len(positions)] = positions

        def likeliest(batch: Batch, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
            predict_BM = np.zeros((len(batch["ids"]), masked_NM.shape[1]), np.int32)
            predict_BM[: len(rows)] = masked_NM[rows]
            placed = to_mesh({"predict": predict_BM}, self.mesh)
            return forward.likeliest(
                self.graphdef, self.params, batch, placed["predict"], self.tokenizer.vocab_size, top_k
            )

        features = Features(ids, [np.zeros_like(row) for row in ids], {}, self.tokenizer.pad_id)
        found = self._map(likeliest, features)
        filled = [
            [self._candidates(text, which, *(x[which] for x in row)) for which in range(len(positions))]
            for text, row, positions in zip(checked, found, masked, strict=True)
        ]
        return filled[0] if isinstance(texts, str) else filled

    def embed(
        self,
        texts: str | Sequence[str],
        pooling: Pooling = "mean",
        *,
        normalize: bool = False,
        truncate: bool = False,
    ) -> np.ndarray:
        """Returns a vector for each text, float32 [N, D]: the mean over its tokens, [CLS] and [SEP] too, or [CLS]'s.

        With `normalize` they have length 1.
        """
        if pooling not in get_args(Pooling):
            raise UserError(f"pooling={pooling!r} is unknown; use one of {get_args(Pooling)}")
        features = self._features(texts_of(texts), truncate=truncate)
        lengths_N = features.lengths_N
        row_lengths = padded_lengths(max(ROW, self.config.max_positions))
        shortest = min(ROW, next((length for length in row_lengths if lengths_N.sum() <= length), ROW))
        rows = pack(lengths_N.tolist(), row_lengths=[n for n in row_lengths if n >= shortest], per_row=PER_ROW)
        packed = side_by_side(features, rows)
        vectors = self._each(forward.pooled, packed, pooling)
        vectors_ND = np.zeros((len(lengths_N), self.config.width), np.float32)
        for row, vectors_PD in zip(rows, vectors, strict=True):
            vectors_ND[row] = vectors_PD[: len(row)]
        return vectors_ND / np.linalg.norm(vectors_ND, axis=-1, keepdims=True) if normalize else vectors_ND

    def tokens(self, text: str, *, all_layers: bool = False, truncate: bool = False) -> Tokens:
        """Returns the word pieces of a text, without [CLS] and [SEP], with their contextual vectors.

        With `all_layers` there are those of the embeddings and of every layer, [L + 1, n, D].
        """
        features = self._features(texts_of([text]), truncate=truncate)
        _, pieces, offsets = self.tokenizer.encode_with_offsets(text)
        kept = len(features.ids[0]) - 2
        hidden = forward.hidden_of_all_layers if all_layers else forward.hidden
        (vectors,) = self._each(hidden, features)
        return Tokens(pieces[:kept], offsets[:kept], vectors[..., 1 : 1 + kept, :])

    def attentions(self, text: Text, *, truncate: bool = False) -> Attentions:
        """Returns the attention weights of all layers on a text, or on a pair of texts."""
        features = self._features(texts_of([text], pairs=True), truncate=truncate)
        (weights_LHST,) = self._each(forward.attentions, features)
        ids = features.ids[0]
        return Attentions([self.tokenizer.piece(int(i)) for i in ids], weights_LHST[..., : len(ids), : len(ids)])

    def classify(self, texts: Text | Sequence[Text], *, truncate: bool = False) -> list[Classification]:
        """Returns the label of each text, or of each pair of texts: a tuple of two strings is one pair, a list several.

        What the model was not fine-tuned on, pairs or single texts, is refused; longer ones than there are, too, or
        cut as they were there. So does `score`.
        """
        if self.task not in OF_TEXTS:
            raise UserError("this model has no classes: fine-tune it, and load the folder of the fine-tuning")
        if self.task == "regression" or (self.task == "classification" and len(self.labels) == 1):
            raise UserError("this model gives scores, no classes; ask for them: `score`")
        features = self._features_of_texts(texts, truncate=truncate)
        normalize = jax.nn.sigmoid if self.task == "multilabel" else jax.nn.softmax
        found = self._each(forward.probabilities, features, normalize)
        return [self._classification(row_C) for row_C in found]

    def score(self, texts: Text | Sequence[Text], *, truncate: bool = False) -> list[float]:
        """Returns the score of each text, or of each pair of texts, by a model that was fine-tuned for regression."""
        if self.task != "regression":
            raise UserError("this model gives no scores: fine-tune it for regression, and load that run's folder")
        features = self._features_of_texts(texts, truncate=truncate)
        found = self._each(forward.probabilities, features, forward.as_it_is)
        return [float(row_C[0]) for row_C in found]

    def answer(self, question: str, context: str, *, truncate: bool = False) -> Answer:
        """Returns the words of the context that answer the question, however long the context is."""
        return self.answer_all([(question, context)], truncate=truncate)[0]

    def answer_all(self, pairs: Sequence[tuple[str, str]], *, truncate: bool = False) -> list[Answer]:
        """Returns the answer to each question, of pairs of a question and its context."""
        if self.task != "answers":
            raise UserError("this model answers no questions: fine-tune it for answers, and load that run's folder")
        texts_of(list(pairs), pairs=True)
        questions = [Question(str(i), *pair) for i, pair in enumerate(pairs)]
        readings, features = answers.read(questions, self.tokenizer, self._windows)
        if features.truncated and not truncate:
            asked = self.tokenizer.encode_batch([question for question, _ in pairs])
            check_lengths(asked, self._windows.question_len, SHORTEN, "in its question")
        outputs = self._each(forward.of_tokens, features, answers.logits)
        return [self._answer(reading, outputs) for reading in readings]

    def _answer(self, reading: answers.Reading, outputs: list[np.ndarray]) -> Answer:
        found = answers.best_spans(reading, outputs, longest=self._windows.max_answer, most=answers.BEST)
        none = self.threshold is not None and found.doubt > self.threshold
        listed = answers.n_best(found, with_none=self.threshold is not None)
        best = next(one for one in listed if (one["text"] == "") == (none or not found.spans))
        return Answer(answer=best["text"], start=best["start"], end=best["end"], probability=best["probability"])

    def choose(self, text: str, ways: Sequence[str], *, truncate: bool = False) -> Choice:
        """Returns which of several ways to go on is the right one; the model reads the text with each of them.

        One that was fine-tuned with `data.second` expects that text and a space at the beginning of each way.
        """
        if self.task != "choice":
            raise UserError("this model makes no choices: fine-tune it for choice, and load that run's folder")
        if isinstance(ways, str) or len(ways) < 2:
            raise UserError(f"{shown(ways)} leaves no choice; give a list of two or more texts")
        texts_of([(text, way) for way in ways], pairs=True)
        limit = self.seq_len if truncate else sys.maxsize
        features = choices.features([choices.Example(text, tuple(ways), None, 0)], self.tokenizer, limit)
        alone = np.split(features.ids[0], features.targets["starts"][0][1:])
        check_lengths(alone, self.seq_len, SHORTEN)
        outputs = self._each(forward.of_tokens, features, choices.logits)
        logits_K = outputs[0]
        probabilities = [float(p) for p in np.exp(classification.log_softmax(logits_K[None])[0])]
        best = int(np.argmax(logits_K))
        return Choice(choice=best, way=ways[best], probabilities=probabilities)

    def tag(self, texts: str | Sequence[str]) -> list[Any]:
        """Returns the NamedParts of a text, in order, however long it is; of several texts, a list of that each.

        Of a model whose labels are no tags of entities, such as NOUN, each word is a part.
        """
        if self.task != "tagging":
            raise UserError("this model tags no words: fine-tune it for tagging, and load that run's folder")
        checked = texts_of(texts)
        words = [tagging.words_of(text) for text in checked]
        sentences = [
            conll.Sentence(tuple(text[start:end] for start, end in found), None, 0)
            for text, found in zip(checked, words, strict=True)
        ]
        alone = dataclasses.replace(self._windows, context=0)
        readings, features = tagging.read(sentences, self.tokenizer, alone, self.labels)
        outputs = self._each(forward.of_tokens, features, tagging.logits)
        named = [
            self._named_parts(text, found, tagging.told(reading, outputs))
            for text, found, reading in zip(checked, words, readings, strict=True)
        ]
        return named[0] if isinstance(texts, str) else named

    def _named_parts(self, text: str, words: list[tuple[int, int]], logits_WC: np.ndarray) -> list[NamedPart]:
        sure_W = np.exp(logits_WC - np.logaddexp.reduce(logits_WC, axis=1, keepdims=True)).max(axis=1)
        parts = []
        for name, first, last in conll.entities(tagging.tags_of(logits_WC, self.labels)):
            start, end, sure = words[first][0], words[last - 1][1], float(sure_W[first:last].min())
            parts.append(NamedPart(name=name, text=text[start:end], start=start, end=end, probability=sure))
        return parts

    def _classification(self, probabilities_C: np.ndarray) -> Classification:
        best = int(probabilities_C.argmax())
        named = dict(zip(self.labels, map(float, probabilities_C), strict=True))
        found = Classification(label=self.labels[best], probability=float(probabilities_C[best]), probabilities=named)
        if self.task == "multilabel":
            found["labels"] = [label for label, probability in named.items() if probability > 0.5]
        return found

    def _features_of_texts(self, texts: Text | Sequence[Text], *, truncate: bool) -> Features:
        """Returns what a classifier of texts reads. Raises: UserError for a pair in place of a text, or the reverse."""
        checked = texts_of(texts, pairs=True)
        for i, text in enumerate(checked):
            if self.of_pairs is False and not isinstance(text, str):
                raise UserError(
                    f"texts[{i}] is a pair: {shown(text)}, but the model was fine-tuned on single texts; give a string"
                    " (in a file a line without tabs), or a list of them"
                )
            if self.of_pairs and isinstance(text, str):
                raise UserError(
                    f"texts[{i}] is a single text: {shown(text)}, but the model was fine-tuned on pairs; give a tuple"
                    " of two (in a file text, tab, text)"
                )
        return self._features(checked, truncate=truncate, limit=self.seq_len)

    def _features(self, texts: Sequence[Text], *, truncate: bool, limit: int | None = None) -> Features:
        """Returns texts and pairs as the model reads them, of at most `limit` tokens; None takes all its positions."""
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        examples = [text_examples.Example(first, second, None, i) for i, (first, second) in enumerate(pairs)]
        longest = limit or self.config.max_positions
        features = text_examples.features(examples, self.tokenizer, longest if truncate else sys.maxsize, self.labels)
        for i, row in enumerate(features.ids):
            if len(row) <= 2:  # [CLS] and [SEP]
                raise UserError(f"texts[{i}] has no tokens: {shown(texts[i])}; leave it out")
        check_lengths(features.ids, longest, SHORTEN)
        return features

    def _ids_with_masks(self, text: str, index: int) -> np.ndarray:
        mask = self.tokenizer.mask_piece
        *before, last = text.split(mask)
        if not before:
            raise UserError(f"texts[{index}] has no {mask}: {shown(text)}; write {mask} where a word is to be found")
        # A space before the mask belongs to the word that it stands for, as BPE has it; WordPiece drops spaces anyway.
        first, *others = self.tokenizer.encode_batch([*(part.rstrip() for part in before), last])
        tail = [token for part in others for token in (self.tokenizer.mask_id, *part)]
        return np.array([self.tokenizer.cls_id, *first, *tail, self.tokenizer.sep_id], np.int32)

    def _candidates(self, text: str, which: int, probabilities_K: np.ndarray, ids_K: np.ndarray) -> list[Candidate]:
        mask = self.tokenizer.mask_piece
        parts = text.split(mask)
        before, after = mask.join(parts[: which + 1]), mask.join(parts[which + 1 :])
        candidates = []
        for probability, token_id in zip(probabilities_K, ids_K, strict=True):
            token = self.tokenizer.piece(int(token_id))
            joined = self.tokenizer.appended(before, int(token_id)) + after
            candidates.append(Candidate(token=token, id=int(token_id), probability=float(probability), text=joined))
        return candidates

    def _each(self, function: Callable[..., Any], features: Features, *more: Any) -> list[Any]:
        """Returns what a function of bertjax/forward.py gives for each row."""
        return self._map(lambda batch, _: function(self.graphdef, self.params, batch, *more), features)

    def _map(self, function: Callable[[Batch, np.ndarray], Any], features: Features) -> list[Any]:
        """Returns what `function(batch, indices of its examples)` has for each example, as NumPy arrays.

        Those of about one length are a batch. Each device has one of few numbers of rows, each of which compiles once.
        """
        results: list[Any] = [None] * len(features.ids)
        shards = batch_shards(self.mesh)
        with jax.set_mesh(self.mesh):
            longest = max([1, *map(len, features.ids)])  # several side by side may be longer than the model's positions
            longest = max(self.config.max_positions, _power_of_two(longest))
            for choice in batches_of_tokens(features.lengths_N, shards * tokens_at_a_time(), longest):
                rows = shards * _rounded_up(-(-len(choice.indices) // shards))
                batch = make_batch(features, choice, rows)
                computed = jax.device_get(function(to_mesh(batch, self.mesh), choice.indices))
                for row, i in enumerate(choice.indices):
                    results[i] = jax.tree.map(lambda x, row=row: x[row], computed)
        return results


def load(path: str | Path, *, step: int | None = None, mesh: MeshConfig | None = None) -> Model:
    """Returns the model of a run's folder, of one of Hugging Face's or of Google's.

    Of a pretraining it is the newest checkpoint, of a fine-tuning the best, unless `step` names another. It is on one
    device, or cut over all that this process has as `mesh` says: `MeshConfig()` computes other texts on each.

    Raises: UserError if it is none of these, the weights are damaged or of another model, or do not fit the mesh.
    """
    b = pretrained.read_blueprint(path)
    tokenizer = pretrained.read_tokenizer(path, b)
    devices = jax.local_devices()
    made = make_mesh(MeshConfig(), devices[:1]) if mesh is None else make_mesh(mesh, devices)
    check_mesh(b.config, made)
    step = pretrained.chosen_step(path, step)
    with jax.set_mesh(made):
        params = pretrained.read_params(path, b, step=step)
        graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(b)))
    reading, threshold = pretrained.read_task_data(path), pretrained.read_threshold(path, b, step)
    return Model(b.config, tokenizer, graphdef, params, made, b.labels, b.task, reading, threshold)


def make_model(b: Blueprint) -> nnx.Module:
    """Returns the model that the blueprint's weights go into."""
    if b.task in OF_TEXTS:
        return classification.SequenceClassifier(b.config, len(b.labels), pooling=b.pooling, rngs=nnx.Rngs(0))
    return Assembly(b, rngs=nnx.Rngs(0))


def tokens_at_a_time() -> int:
    """Returns the positions of a device's batch, padding among them: on CPUs more are not faster (docs/log.md)."""
    return 2048 if jax.default_backend() == "cpu" else 16384


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _rounded_up(least: int) -> int:
    """Returns the next of 1, 2, 3, 4, 6, 8, 12, 16, ...: less than a third of it is left over."""
    power = _power_of_two(least)
    return power * 3 // 4 if least <= power * 3 // 4 else power

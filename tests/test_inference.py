from __future__ import annotations

import dataclasses
import inspect
import io
import json
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bertjax
from bertjax import cli, forward, inference, runs
from bertjax.config import CheckpointConfig, Config, DataConfig, FinetuneConfig, MeshConfig, TaskDataConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError
from bertjax.forward import Pooling
from bertjax.inference import Model, load
from bertjax.model.params import params_of
from bertjax.sharding import ACT_B
from bertjax.storage import Folder
from bertjax.tasks.classification import SequenceClassifier
from bertjax.training.checkpoints import Checkpoints
from bertjax.training.step import TrainState
from tests.model import tiny

TEXTS = ["A small grey heron waits.", "rain", "The river rises after the rain."]
LONG = "rain " * 15  # with [CLS] and [SEP] one token more than the model has positions


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    Tokenizer.train(TEXTS * 2, vocab_size=120).save(directory / "made")
    c = Config(model=tiny.CONFIG, data=DataConfig(seq_len=16))
    workdir = runs.open_workdir(directory / "workdir", c, {}, Tokenizer.load(directory / "made"))
    with jax.set_mesh(tiny.one_device()), Checkpoints(Folder(workdir), CheckpointConfig()) as checkpoints:
        checkpoints.save(TrainState(jnp.int32(1), params_of(tiny.bert()), {}), 1, {})
    return workdir


@pytest.fixture(scope="module")
def model(workdir: Path) -> Model:
    return load(workdir)


def vectors_with_specials(model: Model, text: str) -> np.ndarray:
    ids = [model.tokenizer.cls_id, *model.tokenizer.encode_batch([text])[0], model.tokenizer.sep_id]
    rows = [jnp.array([row], jnp.int32) for row in (ids, [0] * len(ids), range(len(ids)), [1] * len(ids))]
    with jax.set_mesh(model.mesh):
        return np.asarray(tiny.encode(model.encoder, rows))[0]


def biased(model: Model, piece: str) -> Model:
    """Returns the model with a masked-LM head that always answers `piece`."""
    head = model.params["masked_lm"]
    entries = jnp.arange(len(head["bias"]))
    bias = jnp.where(entries == model.tokenizer.id_of(piece), 100.0, 0.0)
    return dataclasses.replace(model, params=model.params | {"masked_lm": head | {"bias": bias}})


@pytest.fixture(scope="module")
def classifier(tuned: Path) -> Model:
    return load(tuned)


@pytest.fixture(scope="module")
def tuned(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a fine-tuned model of three checkpoints, the second of which is the best: it says "yes"."""
    facts = {
        "task": "classification",
        "metric": "accuracy",
        "labels": ["no", "yes", "maybe"],
        "heads": ["pooler", "classifier"],
        "model": dataclasses.asdict(tiny.CONFIG),
    }
    tuned = tmp_path_factory.mktemp("tuned") / "workdir"
    c = FinetuneConfig(data=TaskDataConfig(seq_len=12))
    runs.open_workdir(tuned, c, facts, Tokenizer.load(workdir / "tokenizer"))

    def make() -> SequenceClassifier:
        return SequenceClassifier(tiny.CONFIG, 3, rngs=nnx.Rngs(0))

    keep_all = CheckpointConfig(keep=3)
    with jax.set_mesh(tiny.one_device()), Checkpoints(Folder(tuned), keep_all, best="accuracy") as checkpoints:
        params = jax.jit(lambda: params_of(make()))()
        for step, (label, accuracy) in enumerate([(0, 0.5), (1, 0.7), (2, 0.6)], 1):
            params["classifier"]["bias"] = 5 * jax.nn.one_hot(label, 3)
            checkpoints.save(TrainState(jnp.int32(step), params, {}), step, {}, figures={"accuracy": accuracy})
    return tuned


def test_mean_and_cls_vectors_are_those_of_the_encoder(model: Model) -> None:
    wanted = [vectors_with_specials(model, text) for text in TEXTS]
    np.testing.assert_allclose(model.embed(TEXTS), [x.mean(axis=0) for x in wanted], atol=1e-5)
    np.testing.assert_allclose(model.embed(TEXTS, pooling="cls"), [x[0] for x in wanted], atol=1e-5)
    assert model.embed(TEXTS).dtype == np.float32


def test_a_vector_does_not_depend_on_the_company(model: Model) -> None:
    texts = TEXTS * 40 + ["rain"] * 40  # several rows, of which some have as many texts as they may
    for pooling in get_args(Pooling):
        many, alone = model.embed(texts, pooling), [model.embed(text, pooling)[0] for text in [*TEXTS, "rain"]]
        np.testing.assert_allclose(many[:120], alone[:3] * 40, atol=1e-5)
        np.testing.assert_allclose(many[120:], alone[3:] * 40, atol=1e-5)
    assert model.embed([]).shape == (0, 32)


def test_normalized_vectors_have_length_one(model: Model) -> None:
    vectors_ND = model.embed(TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(vectors_ND * np.linalg.norm(model.embed(TEXTS), axis=-1)[:, None], model.embed(TEXTS))


def test_tokens_point_into_the_text(model: Model) -> None:
    pieces, offsets, vectors_SD = model.tokens(TEXTS[0])
    assert [TEXTS[0][start:end].lower() for start, end in offsets] == [piece.removeprefix("##") for piece in pieces]
    np.testing.assert_allclose(vectors_SD, vectors_with_specials(model, TEXTS[0])[1:-1], atol=1e-5)


def test_tokens_of_all_layers_begin_with_the_embeddings_and_end_with_the_last(model: Model) -> None:
    vectors_LSD = model.tokens(TEXTS[0], all_layers=True).vectors
    last_SD = model.tokens(TEXTS[0]).vectors
    assert vectors_LSD.shape == (3, *last_SD.shape)
    np.testing.assert_allclose(vectors_LSD[-1], last_SD, atol=1e-5)
    repeated = model.tokens("rain rain", all_layers=True)
    assert repeated.pieces[0] == "rain"
    assert np.abs(vectors_LSD[0] - last_SD).max() > 0.1


def test_attentions_are_shares_of_the_pieces_for_a_text_or_a_pair(model: Model) -> None:
    pieces, weights = model.attentions("rain")
    assert pieces == ["[CLS]", "rain", "[SEP]"]
    assert weights.shape == (2, 8, 3, 3)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    pieces, weights = model.attentions(("rain", "rain"))
    assert pieces == ["[CLS]", "rain", "[SEP]", "rain", "[SEP]"]
    assert weights.shape == (2, 8, 5, 5)


def test_two_banks_have_two_vectors_and_both_sides_reach_them(model: Model) -> None:
    texts = ["i went to the bank to deposit cash", "i went to the bank to sit down"]
    reader = dataclasses.replace(model, tokenizer=Tokenizer.train(texts * 2, vocab_size=140))
    found = [reader.tokens(text) for text in texts]
    place = found[0].pieces.index("bank")
    assert found[1].pieces.index("bank") == place
    assert np.abs(found[0].vectors[place] - found[1].vectors[place]).max() > 1e-3

    with jax.set_mesh(model.mesh):
        ids_BS = jnp.array([reader.tokenizer.encode_batch(texts[:1])[0]], jnp.int32)
        positions_BS = jnp.arange(ids_BS.shape[1])[None]
        ids_BS, positions_BS = (jax.sharding.reshard(x, ACT_B) for x in (ids_BS, positions_BS))

        def bank(encoder: Any) -> jax.Array:
            x_BSD = encoder(ids_BS, jnp.zeros_like(ids_BS), positions_BS, jnp.ones_like(ids_BS))
            return jnp.sum(jnp.where(jnp.arange(x_BSD.shape[1]) == place, x_BSD[..., 0], 0))

        slopes = jax.jit(nnx.grad(bank))(model.encoder)
    reached_VD = np.abs(slopes["embeddings"]["token"]["embedding"][...])
    left, right = (reader.tokenizer.id_of(piece) for piece in ("went", "deposit"))
    assert reached_VD[left].max() > 0
    assert reached_VD[right].max() > 0


def test_special_pieces_in_a_text_are_text(model: Model) -> None:
    assert "[SEP]" not in model.tokens("a [SEP] b").pieces


def test_fill_mask_answers_each_mask_with_the_likeliest_pieces(model: Model) -> None:
    found = model.fill_mask("The [MASK] rises after the [MASK].", top_k=7)
    assert [len(candidates) for candidates in found] == [7, 7]
    for candidates in found:
        probabilities = [candidate["probability"] for candidate in candidates]
        assert probabilities == sorted(probabilities, reverse=True)
        assert all(model.tokenizer.piece(candidate["id"]) == candidate["token"] for candidate in candidates)
    everything = model.fill_mask("[MASK]", top_k=model.tokenizer.vocab_size)[0]
    assert sum(candidate["probability"] for candidate in everything) == pytest.approx(1, abs=1e-5)


def test_fill_mask_puts_the_piece_into_the_text(model: Model) -> None:
    piece = next(piece for piece in model.tokenizer.pieces if piece.startswith("##"))
    rain, glued = biased(model, "rain"), biased(model, piece)
    texts = [candidates[0]["text"] for candidates in rain.fill_mask("The [MASK], the [MASK].", top_k=1)]
    assert texts == ["The rain, the [MASK].", "The [MASK], the rain."]
    assert glued.fill_mask("The [MASK].", top_k=1)[0][0]["text"] == f"The{piece[2:]}."


def test_fill_mask_of_several_texts_is_a_list_of_answers(model: Model) -> None:
    texts = ["The [MASK] waits.", "[MASK] after [MASK] the [MASK]"]
    alone = [model.fill_mask(text) for text in texts]
    together = model.fill_mask(texts)
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        assert a == (pytest.approx(b, rel=1e-4) if isinstance(b, float) else b)


def test_classify_names_the_likeliest_label(classifier: Model) -> None:
    classifier = dataclasses.replace(classifier, reading=None)
    found = classifier.classify([TEXTS[0], (TEXTS[1], TEXTS[2])])
    for answer in found:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert tuple(answer["probabilities"]) == ("no", "yes", "maybe")
        assert answer["probability"] == max(answer["probabilities"].values())
        assert answer["probability"] == answer["probabilities"][answer["label"]]
        assert answer["label"] == "yes"
    for one, answer in zip((TEXTS[0], (TEXTS[1], TEXTS[2])), found, strict=True):
        (alone,) = classifier.classify(one)
        assert alone["probabilities"] == pytest.approx(answer["probabilities"], rel=1e-4)


def test_the_command_line_classifies(
    classifier: Model, tuned: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.Predict("classify", ("rain",), str(tuned)).run()
    said = json.loads(capsys.readouterr().out)
    assert (said["text"], said["label"], list(said["probabilities"])) == ("rain", "yes", ["no", "yes", "maybe"])
    assert said["probability"] == pytest.approx(classifier.classify("rain")[0]["probability"], rel=1e-4)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"rain\t1\n")))
    with pytest.raises(UserError, match=r"texts\[0\] is a pair: \('rain', '1'\), but the model .* single texts"):
        cli.Predict("classify", (), str(tuned)).run()
    assert (classifier.of_pairs, classifier.seq_len) == (False, 12)


def bare(**how: Any) -> Model:
    """Returns a model without weights, which can refuse texts."""
    graphdef: Any = None
    tokenizer = Tokenizer.train(TEXTS * 2, vocab_size=120)
    return Model(tiny.CONFIG, tokenizer, graphdef, {}, tiny.one_device(), labels=("no", "yes"), **how)


@pytest.mark.parametrize(("reading", "longest"), [(TaskDataConfig(seq_len=12), 12), (None, 16)])
def test_a_text_may_be_as_long_as_in_the_fine_tuning(reading: TaskDataConfig | None, longest: int) -> None:
    long = "rain " * (longest - 1)
    message = f"has {longest + 1} tokens with .* at most {longest}; shorten it, or pass truncate=True"
    for task, ask in (("classification", "classify"), ("regression", "score")):
        with pytest.raises(UserError, match=message):
            getattr(bare(task=task, reading=reading), ask)(long)
    chooser = bare(task="choice", reading=reading)
    with pytest.raises(UserError, match=f"at most {longest}; shorten it"):
        chooser.choose("rain", ["rain", long])
    with pytest.raises(UserError, match=r"has 17 tokens with .* at most 16"):
        bare(task="classification", reading=reading).embed(LONG)


@pytest.mark.parametrize(("task", "ask"), [("classification", "classify"), ("regression", "score")])
def test_a_model_reads_pairs_or_single_texts_as_in_the_fine_tuning(task: Any, ask: str) -> None:
    of_texts = bare(task=task, reading=TaskDataConfig())
    of_pairs = bare(task=task, reading=TaskDataConfig(second="hypothesis"))
    pair, text = ("rain", "1"), "rain"
    for pairs, i in ((pair, 0), ([text, pair], 1)):
        with pytest.raises(UserError, match=rf"texts\[{i}\] is a pair: \('rain', '1'\), but .* single texts; give"):
            getattr(of_texts, ask)(pairs)
    for texts, i in ((text, 0), ([pair, text], 1)):
        with pytest.raises(UserError, match=rf"texts\[{i}\] is a single text: 'rain', but .* on pairs; give"):
            getattr(of_pairs, ask)(texts)


def test_a_question_is_cut_only_if_asked_to() -> None:
    reader = bare(task="answers", reading=TaskDataConfig(seq_len=12, question_len=3))
    with pytest.raises(UserError, match=r"texts\[1\] has 4 tokens in its question, .* at most 3; shorten it, or pass"):
        reader.answer_all([("rain rain", "rain"), ("rain rain rain rain", "the river")])


def test_texts_of_similar_length_compile_once(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    pooled: Any = forward.pooled
    pooled.clear_cache()
    with jax.log_compiles():
        model.embed(["rain"] * 8, pooling="cls")
        assert "Finished XLA compilation of jit(pooled)" in caplog.text
        caplog.clear()
        model.embed(["the river"] * 7, pooling="cls")
        assert "XLA compilation" not in caplog.text


def test_truncation_is_asked_for(model: Model, classifier: Model) -> None:
    assert len(model.tokens(LONG, truncate=True).pieces) == 14
    np.testing.assert_allclose(model.embed(LONG, truncate=True), model.embed("rain " * 14), atol=1e-6)
    assert len(classifier.classify([LONG], truncate=True)) == 1


@pytest.mark.parametrize(
    ("method", "texts", "message"),
    [
        (
            "embed",
            ["rain", LONG],
            "texts[1] has 17 tokens with [CLS] and [SEP], the model reads at most 16",
        ),
        ("tokens", LONG, "pass truncate=True"),
        ("fill_mask", LONG + "[MASK]", "texts[0] has 18 tokens"),
        ("embed", ["rain", None], "texts[1] is not a text: None; give a string"),
        ("embed", [("rain", "rises")], "texts[0] is not a text: ('rain', 'rises')"),
        ("embed", 7, "7 is not a text; give a string or a list of strings"),
        ("embed", ["rain", " "], "texts[1] is empty; leave it out"),
        ("embed", "\u200b", "texts[0] has no tokens"),
        ("embed", "a\ud800", "half of a surrogate pair"),
        ("fill_mask", "rain", "texts[0] has no [MASK]: 'rain'"),
        ("classify", "rain", "no classes"),
    ],
)
def test_mistakes_in_texts_are_explained(model: Model, method: str, texts: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        getattr(model, method)(texts)
    assert message in str(caught.value)


def test_mistakes_in_options_are_explained(model: Model, classifier: Model) -> None:
    pooling: Any = "max"
    with pytest.raises(UserError, match="pooling='max' is unknown; use one of"):
        model.embed("rain", pooling=pooling)
    with pytest.raises(UserError, match="top_k=0 is not between 1 and"):
        model.fill_mask("[MASK]", top_k=0)
    with pytest.raises(UserError, match="no masked-LM head"):
        classifier.fill_mask("[MASK]")
    pair: Any = ("rain", 3)
    with pytest.raises(UserError, match=r"texts\[0\] is not a text: 3"):
        classifier.classify([pair])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the workdir of a run"):
        load(tmp_path)


def test_a_model_for_something_else_says_so(finished: Path) -> None:
    model = load(finished)
    for ask, message in ((model.tag, "tags no words"), (lambda text: model.answer(text, text), "answers no questions")):
        with pytest.raises(UserError, match=message):
            ask("the old river")


@pytest.mark.parametrize(
    "mesh", [MeshConfig(), MeshConfig(data=2, fsdp=2, model=2), MeshConfig(data=1, fsdp=1, model=8)]
)
def test_answers_are_the_same_on_every_mesh(workdir: Path, model: Model, mesh: MeshConfig) -> None:
    cut = load(workdir, mesh=mesh)
    assert cut.mesh.size == 8
    texts = TEXTS * 3 + ["rain"] * 40  # more than a batch, and no multiple of one
    np.testing.assert_allclose(cut.embed(texts), model.embed(texts), atol=1e-5)
    text = "The [MASK] rises after the [MASK]."
    for found, wanted in zip(cut.fill_mask([text, text]), model.fill_mask([text, text]), strict=True):
        for one, other in zip(found, wanted, strict=True):
            assert [c["token"] for c in one] == [c["token"] for c in other]
            np.testing.assert_allclose([c["probability"] for c in one], [c["probability"] for c in other], atol=1e-5)
    np.testing.assert_allclose(cut.tokens(TEXTS[0]).vectors, model.tokens(TEXTS[0]).vectors, atol=1e-5)
    np.testing.assert_allclose(cut.attentions(TEXTS[0]).weights, model.attentions(TEXTS[0]).weights, atol=1e-5)


def test_classes_are_the_same_on_a_mesh(classifier: Model, tuned: Path) -> None:
    cut = load(tuned, mesh=MeshConfig(data=2, fsdp=2, model=2))
    for found, wanted in zip(cut.classify(TEXTS), classifier.classify(TEXTS), strict=True):
        assert found["label"] == wanted["label"]
        np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-5)


def test_a_mesh_that_does_not_fit_is_refused(workdir: Path) -> None:
    with pytest.raises(UserError, match=r"does not multiply out to the 8 devices"):
        load(workdir, mesh=MeshConfig(data=3))


def test_load_is_that_of_the_package() -> None:
    assert inspect.signature(bertjax.load).parameters == inspect.signature(inference.load).parameters

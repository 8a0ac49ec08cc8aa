"""On the weights of every class of every family, bertjax computes what transformers computes, and goes back to it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from bertjax import pretrained
from bertjax.inference import make_model
from bertjax.interop import huggingface
from tests.interop import folders
from tests.model import tiny

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the largest value, in float32
LENGTHS = (48, 21, 7, 1)  # of the rows; the rest is padding
SMALL = {"vocab_size": 150, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "small": SMALL | {"intermediate_size": 48, "max_position_embeddings": 64},
    "wide": SMALL | {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512, "vocab_size": 200}
    | {"max_position_embeddings": 50},
    "deep": SMALL | {"num_hidden_layers": 7, "num_attention_heads": 8, "intermediate_size": 40}
    | {"max_position_embeddings": 128},
}  # fmt: skip
AUTO = {"ForPreTraining": "AutoModelForPreTraining", "ForMaskedLM": "AutoModelForMaskedLM", "Model": "AutoModel"}
AUTO |= {f"For{task}": f"AutoModelFor{task}" for task in ("SequenceClassification", "TokenClassification")}
AUTO |= {"ForQuestionAnswering": "AutoModelForQuestionAnswering", "ForNextSentencePrediction": ""}
CASES = [(family, head, "small") for family in ("Bert", "Roberta") for head in AUTO]
CASES = [
    case for case in CASES if case[:2] not in {("Roberta", "ForPreTraining"), ("Roberta", "ForNextSentencePrediction")}
]
CASES += [("Bert", head, size) for head in ("ForPreTraining", "ForQuestionAnswering") for size in ("wide", "deep")]
CASES += [("ModernBert", head, size) for head in ("ForMaskedLM", "Model") for size in SIZES]
CASES += [("Roberta", "ForMaskedLM", size) for size in ("deep", "wide")]


def make(family: str, head: str, size: str) -> Any:
    """Returns a model of transformers whose weights, biases and norms are so large that all of them count."""
    changes = (
        {"local_attention": 10, "global_attn_every_n_layers": 3, "pad_token_id": 0} if family == "ModernBert" else {}
    )
    labels = 2 if "Question" in head else 3
    config = getattr(transformers, f"{family}Config")(**SIZES[size], **changes, num_labels=labels)
    model = getattr(transformers, family + head)(config).eval()
    rng = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
        drawn = rng.normal(centre, config.hidden_size**-0.5, parameter.shape)
        parameter.data = torch.tensor(drawn, dtype=torch.float32)
    return model


def rows(model: Any) -> dict[str, np.ndarray]:
    """Returns rows of several lengths, with segments where there are any."""
    rng = np.random.default_rng(1)
    places, lengths = np.arange(max(LENGTHS)), np.array(LENGTHS)[:, None]
    segments = (places >= lengths // 2) & (places < lengths) & (getattr(model.config, "type_vocab_size", 1) > 1)
    ids = np.where(places < lengths, rng.integers(5, 150, (len(LENGTHS), max(LENGTHS))), model.config.pad_token_id)
    return {"ids": ids, "segments": segments, "spans": places < lengths}


def positions() -> np.ndarray:
    return np.tile(np.arange(max(LENGTHS)), (len(LENGTHS), 1))


def theirs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    inputs = {name: torch.tensor(value.astype(np.int64)) for name, value in batch.items()}
    arguments = {"input_ids": inputs["ids"], "attention_mask": inputs["spans"], "output_hidden_states": True}
    if hasattr(model.config, "type_vocab_size"):
        arguments["token_type_ids"] = inputs["segments"]
    with torch.no_grad():
        found = dict(model(**arguments))
    if "start_logits" in found:
        found["logits"] = torch.stack([found.pop("start_logits"), found.pop("end_logits")], dim=-1)
    if "Masked" in type(model).__name__:
        found["prediction_logits"] = found.pop("logits")
    if "Next" in type(model).__name__:
        found["seq_relationship_logits"] = found.pop("logits")
    hidden = found.pop("hidden_states")
    found.setdefault("last_hidden_state", hidden[-1])
    return {name: value.numpy() for name, value in found.items()}


def ours(folder: Path, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the same outputs under the same names, where the model has them."""
    b = pretrained.read_blueprint(folder)
    params = pretrained.read_params(folder, b)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(b)))
    inputs = [x.astype(np.int32) for x in (batch["ids"], batch["segments"], positions(), batch["spans"])]

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def outputs(params: nnx.State) -> dict[str, jax.Array]:
        model: Any = nnx.merge(graphdef, params)
        x_BSD = model.encoder(*inputs)
        found = {"last_hidden_state": x_BSD}
        if "pooler" in b.heads:
            found["pooler_output"] = model.pooler(x_BSD[:, 0])
        if "masked_lm" in b.heads:
            logits_BSV = model.masked_lm(x_BSD, model.encoder.embeddings.token.embedding[...])
            found["prediction_logits"] = logits_BSV[..., : b.config.vocab_size]
        if "next_sentence" in b.heads:
            found["seq_relationship_logits"] = model.next_sentence(found["pooler_output"])
        if "classifier" in b.heads:
            found["logits"] = model(*inputs) if b.task == "classification" else model.token_logits(x_BSD)
        return found

    found: dict[str, np.ndarray] = jax.device_get(outputs(params))
    return found


def assert_agree(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray], real: np.ndarray) -> None:
    assert got.keys() >= wanted.keys() - {"pooler_output"}
    for name, value in wanted.items():
        if name in got:
            a, b = (x[real] if x.shape[:2] == real.shape else x for x in (got[name], value))
            np.testing.assert_allclose(a, b, atol=TOLERANCE * np.abs(b).max(), rtol=0, err_msg=name)


@pytest.mark.parametrize(("family", "head", "size"), CASES)
def test_every_class_computes_what_transformers_computes_and_goes_back_to_it(
    tmp_path: Path, family: str, head: str, size: str
) -> None:
    model = make(family, head, size)
    model.save_pretrained(tmp_path / "hf")
    batch = rows(model)
    wanted = theirs(model, batch)
    assert_agree(ours(tmp_path / "hf", batch), wanted, batch["spans"])

    b = pretrained.read_blueprint(tmp_path / "hf")
    params = pretrained.read_params(tmp_path / "hf", b)
    huggingface.write_folder(tmp_path / "back", b, params, folders.TOKENIZER, architecture=None, card="")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(two[name], tensor, err_msg=name)
    auto = getattr(transformers, AUTO[head] or family + head)
    loaded, info = auto.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert type(loaded).__name__ == family + head
    for name, value in theirs(loaded.eval(), batch).items():
        np.testing.assert_array_equal(value, wanted[name], err_msg=name)
    ids = ("vocab_size", "id2label", "max_position_embeddings", "architectures", "layer_types", "rope_parameters")
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back")]
    for name in ids:
        if "id2label" not in name or "Classification" in head:
            assert configs[0].get(name) == configs[1].get(name)


def test_the_exported_tokenizer_gives_the_same_ids(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors(), "BertForPreTraining")
    pretrained.export_folder(folder, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in [*folders.TEXTS, "r" * 150, "Ünïcode, 日本!"]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == folders.TOKENIZER.encode_batch([text])[0]
    assert tokenizer.mask_token_id == folders.TOKENIZER.mask_id
    pair = tokenizer("rain", "the river")
    first, second = folders.TOKENIZER.encode_batch(["rain", "the river"])
    assert pair["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert tokenizer.model_max_length == 14


@pytest.mark.parametrize(("family", "size"), [(family, "deep") for family in ("Bert", "Roberta", "ModernBert")])
def test_attention_weights_of_every_layer_are_those_of_transformers(tmp_path: Path, family: str, size: str) -> None:
    model = make(family, "Model", size)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")  # the others have none to show
    batch = rows(model)
    inputs = {name: torch.tensor(batch[name].astype(np.int64)) for name in ("ids", "segments", "spans")}
    segments = {"token_type_ids": inputs["segments"]} if family != "ModernBert" else {}
    with torch.no_grad():
        found = model(inputs["ids"], attention_mask=inputs["spans"], output_attentions=True, **segments).attentions
    wanted_LBHST = torch.stack(found).numpy()

    b = pretrained.read_blueprint(tmp_path)
    params = pretrained.read_params(tmp_path, b)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(b)))
    arrays = [jax.numpy.asarray(x, "int32") for x in (batch["ids"], batch["segments"], positions(), batch["spans"])]

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def attentions(params: nnx.State) -> jax.Array:
        encoder: Any = nnx.merge(graphdef, params).encoder
        weights_LBHST: jax.Array = encoder.attentions(encoder(*arrays, all_layers=True), arrays[-1])
        return weights_LBHST

    weights_LBHST = np.asarray(attentions(params))
    for row, length in enumerate(LENGTHS):
        real = np.s_[:, row, :, :length, :length]
        np.testing.assert_allclose(weights_LBHST[real], wanted_LBHST[real], atol=TOLERANCE, rtol=0)

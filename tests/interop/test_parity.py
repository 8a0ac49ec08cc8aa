"""On the weights of every class of every family, bertjax computes what transformers computes, and goes back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from benchmarks.outputs import TOLERANCE, difference_of_outputs, outputs_and_gradients
from bertjax import pretrained
from bertjax.errors import UserError
from bertjax.inference import make_model
from bertjax.interop import huggingface
from tests.interop import folders

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
from benchmarks import parity  # noqa: E402 - it needs both

pytestmark = pytest.mark.parity

AUTO = {"ForPreTraining": "AutoModelForPreTraining", "ForMaskedLM": "AutoModelForMaskedLM", "Model": "AutoModel"}
AUTO |= {f"For{task}": f"AutoModelFor{task}" for task in ("SequenceClassification", "TokenClassification")}
AUTO |= {"ForQuestionAnswering": "AutoModelForQuestionAnswering", "ForNextSentencePrediction": ""}
CASES = [(family, head, "small") for family, heads in parity.HEADS.items() for head in heads]
CASES += [("Bert", head, size) for head in ("ForPreTraining", "ForQuestionAnswering") for size in ("wide", "deep")]
CASES += [(family, "ForMaskedLM", size) for family in ("Roberta", "ModernBert") for size in ("wide", "deep")]
CASES += [(family, "ForMaskedLM", "long") for family in parity.HEADS]


@pytest.mark.parametrize(("family", "head", "size"), CASES)
def test_every_class_computes_what_transformers_computes_and_goes_back_to_it(
    tmp_path: Path, family: str, head: str, size: str
) -> None:
    found = parity.compare(family, head, size, tmp_path / "hf")
    for what in ("logits", "gradients"):
        assert found[what]["relative"] < TOLERANCE
        assert found[what]["largest"] > 0.1

    b = pretrained.read_blueprint(tmp_path / "hf")
    params = pretrained.read_params(tmp_path / "hf", b)
    huggingface.write_folder(tmp_path / "back", b, params, folders.TOKENIZER)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(two[name], tensor, err_msg=name)
    name = head.partition(":")[0]
    auto = getattr(transformers, AUTO[name] or family + name)
    loaded, info = auto.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    assert type(loaded).__name__ == family + name
    model = parity.make(family, head, size)
    rows = parity.make_rows(model, size)
    wanted, _ = parity.theirs(model, rows)
    for output, value in parity.theirs(loaded.eval(), rows)[0].items():
        np.testing.assert_array_equal(value, wanted[output], err_msg=output)
    same: tuple[str, ...] = ("vocab_size", "max_position_embeddings", "architectures", "layer_types", "rope_parameters")
    same += ("id2label",) if "Classification" in head else ()
    same += ("classifier_pooling",) if "SequenceClassification" in head else ()
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("hf", "back")]
    for field in same:
        assert configs[0].get(field) == configs[1].get(field)


@pytest.mark.parametrize("family", parity.HEADS)
@pytest.mark.parametrize(
    ("problem", "classes", "task"),
    [
        ("single_label_classification", 3, "classification"),
        ("multi_label_classification", 3, "multilabel"),
        ("regression", 1, "regression"),
        (None, 3, "classification"),
        (None, 1, "regression"),
    ],
)
def test_what_a_classifier_of_texts_is_for_goes_in_and_out(
    tmp_path: Path, family: str, problem: str | None, classes: int, task: str
) -> None:
    model = parity.make(family, "ForSequenceClassification", "tiny", classes)
    model.config.problem_type = problem
    model.save_pretrained(tmp_path / "hf")
    b = pretrained.read_blueprint(tmp_path / "hf")
    assert (b.task, b.labels) == (task, tuple(f"LABEL_{i}" for i in range(classes)))
    rows = parity.make_rows(model, "tiny")
    wanted, _ = parity.theirs(model, rows)
    got, _ = outputs_and_gradients(tmp_path / "hf", rows, wanted)
    assert difference_of_outputs(got, wanted, rows["spans"])["relative"] < TOLERANCE

    params = pretrained.read_params(tmp_path / "hf", b)
    huggingface.write_folder(tmp_path / "back", b, params, folders.TOKENIZER)
    assert pretrained.read_blueprint(tmp_path / "back") == b
    loaded, info = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values())
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[name], tensor, err_msg=name)


def test_the_table_is_of_the_families_heads_and_sizes_asked_for() -> None:
    asked = parity.Arguments(families=("Bert", "ModernBert"), heads=("Model", "ForPreTraining"), sizes=("small",))
    assert list(parity.cases(asked)) == [
        ("Bert", "Model", "small"),
        ("Bert", "ForPreTraining", "small"),
        ("ModernBert", "Model", "small"),
    ]
    with pytest.raises(UserError, match="sizes='huge' is unknown; use of base"):
        list(parity.cases(parity.Arguments(sizes=("huge",))))


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
    model = parity.make(family, "Model", size)
    model.save_pretrained(tmp_path)
    model.set_attn_implementation("eager")  # the others have none to show
    batch = parity.make_rows(model, size)
    inputs = {name: torch.tensor(batch[name].astype(np.int64)) for name in ("ids", "segments", "spans")}
    segments = {"token_type_ids": inputs["segments"]} if family != "ModernBert" else {}
    with torch.no_grad():
        found = model(inputs["ids"], attention_mask=inputs["spans"], output_attentions=True, **segments).attentions
    wanted_LBHST = torch.stack(found).numpy()

    b = pretrained.read_blueprint(tmp_path)
    params = pretrained.read_params(tmp_path, b)
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make_model(b)))
    given = (batch[name] for name in ("ids", "segments", "positions", "spans"))
    arrays = [jax.numpy.asarray(x, "int32") for x in given]

    @jax.jit
    def attentions(params: nnx.State) -> jax.Array:
        encoder: Any = nnx.merge(graphdef, params).encoder
        weights_LBHST: jax.Array = encoder.attentions(encoder(*arrays, all_layers=True), arrays[-1])
        return weights_LBHST

    weights_LBHST = np.asarray(attentions(params))
    for row, length in enumerate(parity.SIZES[size].lengths):
        real = np.s_[:, row, :, :length, :length]
        np.testing.assert_allclose(weights_LBHST[real], wanted_LBHST[real], atol=TOLERANCE, rtol=0)

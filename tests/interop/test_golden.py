"""On the weights of RoBERTa and ModernBERT, bertjax computes what transformers computed of them (make_families.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from benchmarks.outputs import TOLERANCE, difference, difference_of_outputs, outputs_and_gradients

GOLDEN = Path(__file__).parent.parent / "golden"


def prefixed(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


@pytest.mark.parametrize(
    "name", ["roberta_masked_lm", "modernbert_masked_lm", "modernbert_sequence_classification_mean"]
)
def test_agrees_with_the_golden_values(name: str, tmp_path: Path) -> None:
    path = GOLDEN / f"{name}.safetensors"
    golden = load_file(path)
    with safe_open(path, "numpy") as file:
        (tmp_path / "config.json").write_text(file.metadata()["config"])
    assert json.loads((tmp_path / "config.json").read_text())["architectures"]
    save_file(prefixed(golden, "weight/"), tmp_path / "model.safetensors")
    rows, wanted, slopes = (prefixed(golden, part) for part in ("rows/", "output/", "gradient/"))
    got, gradients = outputs_and_gradients(tmp_path, rows, wanted)
    assert difference_of_outputs(got, wanted, rows["spans"])["relative"] < TOLERANCE
    assert difference(gradients, slopes)["relative"] < TOLERANCE


def test_differences_are_relative_to_the_largest_and_padding_does_not_count() -> None:
    got, wanted = np.array([[[1.0], [9.0]]]), np.array([[[2.0], [4.0]]])
    real_BS = np.array([[True, False]])
    assert difference({"a": got}, {"a": wanted}) == {"absolute": 5, "largest": 4, "relative": 1.25}
    worst = difference_of_outputs({"a": got, "b": wanted}, {"a": wanted, "b": wanted}, real_BS)
    assert worst == {"absolute": 1, "largest": 2, "relative": 0.5}
    with pytest.raises(ValueError, match="only one side has"):
        difference({"a": got}, {"b": wanted})

"""Writes the golden values of RoBERTa and ModernBERT: what transformers makes of small random weights and rows.

Needs the `parity` extra. Run from the root of the repository: `python -m tests.golden.make_families`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from benchmarks import parity

CASES = {
    "roberta_masked_lm": ("Roberta", "ForMaskedLM"),
    "modernbert_masked_lm": ("ModernBert", "ForMaskedLM"),
    "modernbert_sequence_classification_mean": ("ModernBert", "ForSequenceClassification:mean"),
}


def main() -> None:
    """Writes a file for each."""
    for name, (family, head) in CASES.items():
        model = parity.make(family, head, "tiny")
        rows = parity.make_rows(model, "tiny")
        outputs, gradients = parity.theirs(model, rows, gradients=True)
        model.config.architectures = [type(model).__name__]
        weights = {weight: parameter.detach().numpy() for weight, parameter in model.named_parameters()}
        parts = {"rows": rows, "weight": weights, "output": outputs, "gradient": gradients}
        arrays = {f"{part}/{key}": np.ascontiguousarray(x) for part, found in parts.items() for key, x in found.items()}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        path = Path(__file__).with_name(f"{name}.safetensors")
        save_file(arrays, path, versions | {"config": model.config.to_json_string(use_diff=False)})
        print(f"{path.name}: {len(arrays)} arrays, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

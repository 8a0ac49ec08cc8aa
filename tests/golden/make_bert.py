"""Writes bert.safetensors: what Hugging Face's BertForPreTraining makes of small random weights and rows.

Needs the `parity` extra. Run from the root of the repository: `python -m tests.golden.make_bert`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

from tests.golden.bert import CONFIG, PATH, make_batch

Arrays = dict[str, np.ndarray]


def make_weights(config: Mapping[str, Any], seed: int) -> Arrays:
    """Returns random weights, biases and LayerNorms under Hugging Face's names, large enough that all of them count."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**config))
    rng = np.random.default_rng(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        weights[name] = rng.normal(centre, config["hidden_size"] ** -0.5, parameter.shape).astype(np.float32)
    return weights


def reference(config: Mapping[str, Any], weights: Arrays, batch: Arrays) -> Arrays:
    """Returns hidden states, pooled output, logits, losses and the gradients of their sum by every weight."""
    model = transformers.BertForPreTraining(transformers.BertConfig(**config)).eval()
    _, unexpected = model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    assert not unexpected
    rows = {name: torch.tensor(value.astype(np.int64)) for name, value in batch.items()}
    inputs = {"input_ids": rows["ids"], "attention_mask": rows["spans"], "token_type_ids": rows["segments"]}
    bert = model.bert(**inputs, output_hidden_states=True)
    mlm_logits_BSV, nsp_logits_BC = model.cls(bert.last_hidden_state, bert.pooler_output)
    mlm_loss = torch.nn.functional.cross_entropy(mlm_logits_BSV.flatten(0, 1), rows["labels"].flatten())
    nsp_loss = torch.nn.functional.cross_entropy(nsp_logits_BC, rows["next"])
    whole = model(**inputs, labels=rows["labels"], next_sentence_label=rows["next"])
    torch.testing.assert_close(whole.loss, mlm_loss + nsp_loss)
    (mlm_loss + nsp_loss).backward()
    outputs = {
        "hidden_LBSD": torch.stack(bert.hidden_states),
        "pooled_BD": bert.pooler_output,
        "mlm_logits_BSV": mlm_logits_BSV,
        "nsp_logits_BC": nsp_logits_BC,
        "mlm_loss": mlm_loss,
        "nsp_loss": nsp_loss,
    } | {f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in outputs.items()}


def main() -> None:
    """Writes the file for both forms of GELU."""
    weights = make_weights(CONFIG, seed=0)
    arrays = {f"weight/{name}": value for name, value in weights.items()}
    for activation in ("gelu", "gelu_new"):
        outputs = reference(CONFIG | {"hidden_act": activation}, weights, make_batch(CONFIG["vocab_size"]))
        arrays |= {f"{activation}/{name}": np.ascontiguousarray(value) for name, value in outputs.items()}
    save_file(arrays, PATH, {"torch": torch.__version__, "transformers": transformers.__version__})
    print(f"{PATH.name}: {len(arrays)} arrays, {Path(PATH).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

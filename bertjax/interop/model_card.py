"""The README.md of an exported model: what it is, of which text, how long, on what, how good, in which settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bertjax import __version__, runs
from bertjax.model.assembly import OF_TEXTS, Blueprint
from bertjax.training.metrics import evaluation_of


def model_card(source: Path, b: Blueprint, step: int | None, architecture: str) -> str:
    """Returns the page of a model that is exported as the class `architecture`.

    `source` is a run's folder or one of others', `step` that of a run's checkpoint.
    """
    c = b.config
    parts = [
        f"---\nlibrary_name: transformers\ntags:\n- bertjax\n---\n\n# {source.resolve().name}",
        f"An encoder of {c.layers} layers, width {c.width} and {c.heads} heads, with {c.vocab_size} entries in its"
        f" vocabulary and at most {c.max_positions} tokens at a time, for {b.task}; exported by bertjax {__version__}.",
        f"```python\nfrom transformers import AutoTokenizer, {architecture}\n\n"
        f'model = {architecture}.from_pretrained("PATH")\ntokenizer = AutoTokenizer.from_pretrained("PATH")\n```',
    ]
    if b.task in (*OF_TEXTS, "tagging"):
        parts.append(f"Labels: {', '.join(b.labels)}.")
    if step is not None and (source / "metrics.jsonl").is_file():
        parts += _training(source, step)
    return "\n\n".join(parts) + "\n"


def _training(source: Path, step: int) -> list[str]:
    """Returns what is known of the run: steps, hardware, data, figures, settings."""
    record = runs.read_record(source)
    hardware = f" on {record['hardware']}" if "hardware" in record else ""
    settings = json.dumps(record["config"], indent=2)
    return [
        "## Training",
        f"Weights of step {step}{hardware}, with bertjax {record['bertjax']}.",
        _data(record["config"]["data"]),
        f"## Held-out figures\n\n{_figures(source, step)}",
        f"## Settings\n\n```json\n{settings}\n```",
    ]


def _figures(source: Path, step: int) -> str:
    figures = evaluation_of(source, step)
    if not figures:
        return f"Step {step} was not evaluated."
    rows = [f"| {name} | {value:.6g} |" for name, value in figures.items()]
    return "\n".join([f"Of step {step}.", "", "| figure | value |", "|---|---|", *rows])


def _data(data: dict[str, Any]) -> str:
    """Returns what is known of the text: of a corpus what its manifest says, if it is still there."""
    if "path" not in data:
        return f"Fine-tuned on {data['train']}, evaluated on {data['validation']}."
    paths = [data["path"]] if isinstance(data["path"], str) else data["path"]
    weights = data.get("weights")
    mixed = f"\n\nMixed with the weights {', '.join(f'{w:g}' for w in weights)}." if weights else ""
    return "\n\n".join(_corpus(path) for path in paths) + mixed


def _corpus(path: str) -> str:
    manifest = Path(path) / "manifest.json"
    if not manifest.is_file():
        return f"Data: {path}."
    described = json.loads(manifest.read_text(encoding="utf-8"))
    rows = ", ".join(f"{split['rows']} rows for {name}" for name, split in described["splits"].items())
    sources = "\n".join(f"- {s['name']}, {s['bytes']} bytes, blake2b {s['blake2b']}" for s in described["sources"])
    return f"Data: {rows}, made of\n\n{sources}"

"""A train step of Hugging Face's BertForPreTraining in PyTorch, ready to be timed. Needs the `parity` extra."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any, Literal

import torch
import transformers

from benchmarks import memory
from benchmarks.alternation import Trial
from benchmarks.huggingface_curve import inputs, make_optimizer
from bertjax.config import Config
from bertjax.data.batches import Batch
from bertjax.interop.bert import huggingface_from_config


def their_step(c: Config, batch: Batch, precision: Literal["float32", "bfloat16"], compiled: bool) -> Trial:
    """Returns the step on this batch, of one pair a row; bfloat16 is PyTorch's autocast."""
    device = _start()
    settings = huggingface_from_config(c.model) | {"attn_implementation": "sdpa"}
    model: Any = transformers.BertForPreTraining(transformers.BertConfig(**settings))
    model = model.to(device).train()
    optimizer = make_optimizer(model, c.optimizer, fused=True)
    forward = torch.compile(model) if compiled else model
    sent = {name: x.to(device) for name, x in inputs(batch).items()}
    if bool(sent["attention_mask"].all()):
        del sent["attention_mask"]  # compiled it would be read all the same, and keep SDPA from its fastest kernel

    def one() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = forward(**sent).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), c.optimizer.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    def steps(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            one()
        _wait(device)
        return time.perf_counter() - started

    first = steps(1)

    def facts() -> dict[str, Any]:
        return {"first_step_seconds": first, "gigabytes": peak_bytes(device) / 1e9, "threads": torch.get_num_threads()}

    return Trial(steps, facts)


def their_products(precision: Literal["float32", "bfloat16"]) -> Trial:
    """Returns a product of two square matrices; `flop` says how much a step of it is."""
    device = _start()
    size = 2048 if device == "cpu" else 8192
    x = torch.randn((size, size), dtype=getattr(torch, precision), device=device)

    def steps(number: int) -> float:
        started = time.perf_counter()
        for _ in range(number):
            x @ x
        _wait(device)
        return time.perf_counter() - started

    steps(1)
    return Trial(steps, lambda: {"flop": 2.0 * size**3})


def has_compiler() -> bool:
    """Returns whether torch.compile finds the C++ compiler that it needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def peak_bytes(device: str) -> int:
    """Returns the most memory that was used: of the GPU, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return memory.peak_bytes()


def _start() -> str:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if not torch.cuda.is_available():
        return "cpu"
    torch.set_float32_matmul_precision("high")  # TF32, as JAX has it on GPUs by default
    return "cuda"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()

"""What has to be set before jax starts its backend. Call `start` first."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import platform
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax

from bertjax import cache

ONEDNN = "--xla_cpu_experimental_onednn_custom_call=true"
"""Products by oneDNN, worth a tenth in float32 and twice the speed in bfloat16 with jax 0.12, nothing with 0.10
(docs/log.md)."""

CUBLAS = "--xla_gpu_enable_triton_gemm=false"
"""Products by cuBLAS alone: with those that XLA writes itself to choose among, BERT-base's step took an H200 2 %
longer, and half as long again to compile (docs/log.md)."""

DEVICES = Path("/dev")
NVIDIA = ("nvidia[0-9]*", "dxg")
GPUS = (*NVIDIA, "kfd")
"""Linux's names for those of NVIDIA, also under Windows, and of AMD."""
TPUS = ("accel[0-9]*", "vfio/[0-9]*")

# Parameters of glibc's mallopt(3), as malloc.h numbers them.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def start() -> None:
    """Turns the persistent compilation cache on, so that the second start of a run compiles little or nothing.

    On NVIDIA GPUs it has XLA take the products of cuBLAS. Where there is no accelerator it lets the process keep the
    memory that it frees, and XLA take oneDNN's products. Programs with those cannot be cached: there every start
    compiles the step.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Orbax logs what it also raises, with tracebacks; what a user must know of it, bertjax says in a line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if only_cpus():
        _keep_freed_memory()
        if has_onednn():
            _set_flag(ONEDNN)
            # XLA cannot write a program with such products down: those are compiled at every start.
            warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry .*MemoryError")
    elif has_cuda() and _knows_flags():
        _set_flag(CUBLAS)


def _set_flag(flag: str) -> None:
    os.environ["XLA_FLAGS"] = f"{flag} {os.environ.get('XLA_FLAGS', '')}".strip()  # the last counts: the user's


def fastest_precision(device: jax.Device) -> Literal["float32", "bfloat16"]:
    """Returns what matrix products are faster in: bfloat16 wherever processor and compiler have it."""
    if device.platform == "gpu":
        capability = str(getattr(device, "compute_capability", ""))  # NVIDIA's 8.0 and on is Ampere; AMD's is gfx90a
        before_ampere = re.fullmatch(r"[0-7]\.\d+", capability)
        return "float32" if before_ampere else "bfloat16"
    if device.platform == "cpu":
        return "bfloat16" if _takes_onednn() and _processor_has_bfloat16() else "float32"
    return "bfloat16"


def has_onednn() -> bool:
    """Whether this jax is one that oneDNN was measured with; XLA ends the process over a flag that it does not know."""
    return jax.version.__version_info__[:2] >= (0, 12) and _knows_flags() and platform.machine() == "x86_64"


def _knows_flags() -> bool:
    return jax.version.__version_info__[:2] < (0, 13)


def _takes_onednn() -> bool:
    """Whether XLA was told to take oneDNN's products, without which bfloat16 is slower; the last flag counts."""
    values = re.findall(r"--xla_cpu_experimental_onednn_custom_call=(\w+)", os.environ.get("XLA_FLAGS", ""))
    return bool(values) and values[-1] == "true"


def _processor_has_bfloat16() -> bool:
    path = Path("/proc/cpuinfo")
    words = set(path.read_text().split()) if path.exists() else set()
    return bool(words & {"avx512_bf16", "amx_bf16"})


def only_cpus() -> bool:
    """Tells it without starting jax's backend, whose threads would bring their own heaps before they are forbidden."""
    if platforms := jax.config.values["jax_platforms"]:
        return bool(platforms == "cpu")
    plugins = _plugins()
    of_gpus = {name for name in plugins if "cuda" in name or "rocm" in name}
    # Installed says little: libtpu also compiles for pods that are elsewhere. What others need is not known here.
    gpus = of_gpus and (sys.platform != "linux" or _is_there(GPUS))
    return not (gpus or has_tpus() or plugins - of_gpus)


def has_cuda() -> bool:
    """Tells whether there are GPUs of NVIDIA that jax may use."""
    plugin = any("cuda" in name for name in _plugins())
    return _may_use("cuda", "gpu") and plugin and (sys.platform != "linux" or _is_there(NVIDIA))


def has_tpus() -> bool:
    """Tells it without starting jax's backend, which takes them for this process alone."""
    return _may_use("tpu") and importlib.util.find_spec("libtpu") is not None and _is_there(TPUS)


def _may_use(*names: str) -> bool:
    platforms = jax.config.values["jax_platforms"]
    return not platforms or not set(names).isdisjoint(platforms.split(","))


def _plugins() -> set[str]:
    return {plugin.name for plugin in importlib.metadata.entry_points(group="jax_plugins")}


def _is_there(names: Sequence[str]) -> bool:
    return any(any(DEVICES.glob(name)) for name in names)


def _keep_freed_memory() -> None:
    """Makes glibc serve large blocks from its heap, and not give the heap back.

    XLA allocates each step's temporaries anew. By default the kernel maps them in, page by page and zeroed, and takes
    them back at the end of the step: of the quickstart's time that was a third (docs/log.md).
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
        libc.mallopt(_M_ARENA_MAX, 1)  # the heaps of other threads are too small for such blocks

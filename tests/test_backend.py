"""What is set before jax starts its backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertjax import backend

FAULTS = """
import resource
import numpy as np
from bertjax import backend
backend.start()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_kept_on_cpus() -> None:
    """Ten arrays of 64 MB, one after the other, cost the pages of one; by default each is mapped in anew."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * 2**26 // 4096


FLAGS = """
import os
from bertjax import backend
backend.has_onednn = lambda: {onednn}
backend.has_cuda = lambda: {cuda}
backend.start()
print(os.environ.get("XLA_FLAGS"))
"""


@pytest.mark.parametrize(
    ("onednn", "cuda", "platforms", "flags"),
    [
        (True, False, "cpu", f"{backend.ONEDNN} --xla_mine"),
        (False, False, "cpu", "--xla_mine"),
        (True, True, "cuda", f"{backend.CUBLAS} --xla_mine"),
        (True, False, "rocm", "--xla_mine"),
    ],
)
def test_products_are_the_librarys_that_is_fast_there_and_the_users_flags_count_more(
    onednn: bool, cuda: bool, platforms: str, flags: str
) -> None:
    environment = os.environ | {"JAX_PLATFORMS": platforms, "XLA_FLAGS": "--xla_mine"}
    command = [sys.executable, "-c", FLAGS.format(onednn=onednn, cuda=cuda)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == flags


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux's devices")
@pytest.mark.parametrize(
    ("plugins", "libtpu", "devices", "platforms", "cpus", "cuda", "tpus"),
    [
        ([], False, ["nvidia0", "accel0"], "", True, False, False),
        (["xla_cuda12"], False, [], "", True, False, False),
        (["xla_cuda12"], False, ["nvidia0"], "", False, True, False),
        (["xla_cuda12"], False, ["nvidia0"], "cuda,cpu", False, True, False),
        (["xla_cuda12"], False, ["nvidia0"], "cpu", True, False, False),
        (["xla_rocm60"], False, ["kfd"], "", False, False, False),
        (["xla_rocm60"], False, ["kfd", "nvidia0"], "", False, False, False),
        (["xla_cuda13"], False, ["nvidiactl", "vfio/vfio"], "", True, False, False),
        ([], True, ["nvidia0"], "", True, False, False),  # libtpu for `bertjax plan`, beside a GPU that jax cannot use
        ([], True, ["accel/accel0"], "", True, False, False),  # an NPU's
        ([], True, ["accel0"], "", False, False, True),
        ([], True, ["vfio/0"], "tpu,cpu", False, False, True),
        ([], True, ["vfio/0"], "cpu", True, False, False),
        (["neuron"], False, [], "", False, False, False),  # who knows what it needs
    ],
)
def test_an_accelerator_is_a_plugin_with_its_device(
    plugins: list[str],
    libtpu: bool,
    devices: list[str],
    platforms: str,
    cpus: bool,
    cuda: bool,
    tpus: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for device in devices:
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
    monkeypatch.setattr(backend, "DEVICES", tmp_path)
    monkeypatch.setattr(backend.jax, "config", SimpleNamespace(values={"jax_platforms": platforms}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: (name == "libtpu" and libtpu) or None)
    found = [SimpleNamespace(name=name) for name in plugins]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: found)
    assert (backend.only_cpus(), backend.has_cuda(), backend.has_tpus()) == (cpus, cuda, tpus)


@pytest.mark.parametrize(
    ("device", "onednn", "processor", "precision"),
    [
        ({"platform": "cpu"}, True, True, "bfloat16"),
        ({"platform": "cpu"}, True, False, "float32"),
        ({"platform": "cpu"}, False, True, "float32"),
        ({"platform": "gpu", "compute_capability": "9.0"}, False, False, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "7.5"}, False, False, "float32"),
        ({"platform": "gpu", "compute_capability": "10.3"}, False, False, "bfloat16"),
        ({"platform": "gpu", "compute_capability": "gfx90a"}, False, False, "bfloat16"),  # AMD's
        ({"platform": "tpu"}, False, False, "bfloat16"),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster(
    device: dict[str, str], onednn: bool, processor: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", backend.ONEDNN if onednn else backend.ONEDNN.replace("true", "false"))
    monkeypatch.setattr(backend, "_processor_has_bfloat16", lambda: processor)
    made: Any = SimpleNamespace(**device)
    assert backend.fastest_precision(made) == precision

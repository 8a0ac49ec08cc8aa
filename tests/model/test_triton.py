"""Triton's kernels without a GPU: computed by its interpreter instead of jax-triton, and compiled for two.

tests/model/test_kernels_on_gpus.py runs them on one. All of it needs the extras triton and parity.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bertjax import sharding
from bertjax.config import MeshConfig, ModelConfig
from bertjax.errors import UserError
from bertjax.model import encoder, kernels
from bertjax.model.attention import attention, attention_weights
from bertjax.model.kernels import choice
from bertjax.sharding import ACT_B, make_mesh
from tests.model import tiny
from tests.model.attending import Arrays, averages_and_gradients, lengths_to_spans, random_inputs
from tests.model.norming import KEY, norm_inputs, sums_and_gradients

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or any(importlib.util.find_spec(name) is None for name in ("torch", "triton")),
    reason="there is no triton to interpret",
)

H100 = ("NVIDIA H100 80GB HBM3", "gpu")
DROPOUT = [(0.0, KEY), (0.1, KEY), (0.1, None)]
"""Rates and keys: none, in training, in evaluation."""


def interpreted_call(
    *inputs: Any, kernel: Any, out_type: Any, grid: tuple[int, ...], name: str, num_warps: int, **constants: Any
) -> Any:
    """What jax_triton.triton_call means: a kernel's pointers are the inputs, and then the results but for constants."""
    del name, num_warps
    constants.pop("num_stages", None)
    import torch

    shapes, tree = jax.tree.flatten(out_type)
    pointers = dict(zip(kernel.arg_names, inputs, strict=False))
    arrays = {key: x for key, x in pointers.items() if x is not None}
    results = [key for key in kernel.arg_names if key not in pointers and key not in constants][: len(shapes)]
    assert all(key.endswith("_ptr") for key in (*pointers, *results))

    def compute(arrays: dict[str, Any]) -> list[np.ndarray]:
        made = {key: np.zeros(shape.shape, shape.dtype) for key, shape in zip(results, shapes, strict=True)}
        tensors = {key: torch.from_numpy(np.array(x)) for key, x in (arrays | made).items()}
        kernel[grid](**(pointers | tensors | constants))
        return [tensors[key].numpy() for key in results]

    return jax.tree.unflatten(tree, jax.pure_callback(compute, shapes, arrays))


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device says that it is a GPU which has jax-triton; its kernels are interpreted, so float32 will do, too."""
    stand_in = types.ModuleType("jax_triton")
    stand_in.triton_call = interpreted_call  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jax_triton", stand_in)  # which need not be installed
    for name in ("triton_attention", "triton_norm"):
        module = importlib.import_module(f"bertjax.model.kernels.{name}")
        monkeypatch.setattr(module, "jax_triton", stand_in)
    monkeypatch.setattr(choice, "_obstacle_without_triton", lambda: None)
    monkeypatch.setattr(choice, "_obstacle_in_dtype", lambda _: None)
    monkeypatch.setattr(sharding, "device_of", lambda _: H100)


def assert_close(found: Any, wanted: Any, tolerance: float = 2e-5) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize(("rate", "key"), DROPOUT)
@pytest.mark.parametrize(
    "spans_BS",
    [
        pytest.param(lengths_to_spans([[128], [100], []], 128), id="one block"),
        pytest.param(lengths_to_spans([[256], [70, 130]], 256), id="two blocks, four steps"),
        pytest.param(lengths_to_spans([[60, 100, 20], [192]], 192), id="three blocks, packed"),
        pytest.param(lengths_to_spans([[30], [11, 20]], 48), id="small blocks"),
    ],
)
def test_attention_is_the_reference_and_drops_the_same(spans_BS: jax.Array, rate: float, key: Any) -> None:
    inputs, attend = random_inputs(spans_BS), functools.partial(attention, dropout=rate, key=key)
    wanted, found = (
        averages_and_gradients(functools.partial(attend, kernel=kernel), inputs) for kernel in ("xla", "triton")
    )
    assert_close(found, wanted)


@pytest.mark.parametrize(("rate", "key"), DROPOUT)
@pytest.mark.parametrize(("rows", "positions", "width"), [(2, 37, 96), (3, 50, 128)])
def test_norm_is_the_reference_and_drops_the_same(
    rows: int, positions: int, width: int, rate: float, key: jax.Array | None
) -> None:
    """Neither rows nor width need to fill a program's block."""
    c = ModelConfig(width=width, heads=1, dropout=rate, norm_epsilon=1e-3)
    inputs = norm_inputs(rows, positions, width)
    wanted, found = (
        sums_and_gradients(dataclasses.replace(c, norm=kernel), inputs, key) for kernel in ("xla", "triton")
    )
    assert_close(found, wanted, 1e-4)


def losses_and_gradients(c: ModelConfig, mesh: jax.sharding.Mesh) -> Any:
    """Returns a loss of the encoder's last hidden states, dropout on, and its gradients."""
    ids_BS = np.random.default_rng(0).integers(5, 150, (4, 16), dtype=np.int32)
    spans_BS = np.asarray(lengths_to_spans([[16], [9], [5, 6], [12]], 16))
    rows = (ids_BS, np.zeros_like(ids_BS), np.zeros_like(ids_BS), spans_BS)

    def loss(model: encoder.Encoder, rows: Arrays) -> jax.Array:
        x_BSD = model(*rows, key=jax.random.key(1))
        return jnp.sum(jnp.sin(x_BSD) * (rows[-1] > 0)[:, :, None])

    with jax.set_mesh(mesh):
        cut = tuple(jax.device_put(x, jax.NamedSharding(mesh, ACT_B)) for x in rows)
        return jax.device_get(jax.jit(nnx.value_and_grad(loss))(encoder.Encoder(c, rngs=nnx.Rngs(0)), cut))


SMALL = dataclasses.replace(tiny.CONFIG, heads=2, unroll_layers=True, attention="xla", norm="xla")
BY_TRITON: dict[str, Any] = {"attention": "triton", "norm": "triton"}


@pytest.mark.parametrize("remat", ["none", "products", "block"])
def test_a_model_is_the_reference_whatever_is_kept(remat: Any) -> None:
    c = dataclasses.replace(SMALL, remat=remat)
    found = losses_and_gradients(dataclasses.replace(c, **BY_TRITON), tiny.one_device())
    assert_close(found, losses_and_gradients(c, tiny.one_device()), 2e-4)


@pytest.mark.parametrize(("remat", "calls"), [("none", 12), ("products", 18)])
def test_what_a_kernel_gave_is_kept_unless_it_shall_not_be(remat: Any, calls: int) -> None:
    """Two norms and an attention a layer, forward and backward, are 12; forward, 6 can be again."""
    model = encoder.Encoder(dataclasses.replace(SMALL, remat=remat, **BY_TRITON), rngs=nnx.Rngs(0))
    ones_BS = jnp.ones((2, 16), jnp.int32)

    def loss(model: encoder.Encoder) -> jax.Array:
        return jnp.sum(model(ones_BS, ones_BS, ones_BS, ones_BS, key=jax.random.key(1)))

    compiled = jax.jit(nnx.value_and_grad(loss)).lower(model).compile().as_text() or ""
    assert compiled.count('custom_call_target="xla_ffi_python_cpu_callback"') == calls


def attended(q_BSHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array, *, spans_BS: jax.Array, factor: Any) -> jax.Array:
    weights_BHST = attention_weights(q_BSHK, k_BTHK, spans_BS) * factor
    return jnp.einsum("BHST,BTHK->BSHK", weights_BHST, v_BTHK)


def added(x_BSD: jax.Array, y_BSD: jax.Array, *params_D: jax.Array, factor: Any) -> jax.Array:
    bias_BSD, scale_BSD, shift_BSD = (x_D[None, None] for x_D in params_D)
    sum_BSD = x_BSD + (y_BSD + bias_BSD) * factor
    return jax.nn.standardize(sum_BSD, epsilon=SMALL.norm_epsilon) * scale_BSD + shift_BSD


def emulated_call(*inputs: Any, out_type: Any, name: str, kept_scale: float, **_: Any) -> Any:
    """What interpreted_call gives of what is read, by JAX: its devices would wait for each other's callbacks."""
    unread = [jnp.zeros(x.shape) for x in jax.tree.leaves(out_type)]
    keep = inputs[4] if name.startswith("attention") else inputs[2]
    factor = 1.0 if keep is None else keep * kept_scale
    if name.startswith("attention"):
        compute: Any = functools.partial(attended, spans_BS=inputs[3], factor=factor)
        o_BSHK, gradients_of = jax.vjp(compute, *inputs[:3])
        return (o_BSHK, unread[1]) if name == "attention_forward" else gradients_of(inputs[-1])
    x_BSD, y_BSD, _, bias_D, scale_D, *others = inputs
    compute = functools.partial(added, factor=factor)
    if name == "norm_forward":
        return compute(x_BSD, y_BSD, bias_D, scale_D, others[0]), *unread[1:]
    _, gradients_of = jax.vjp(compute, x_BSD, y_BSD, bias_D, scale_D, scale_D * 0)  # whatever the shift is
    dx_BSD, dy_BSD, *dparams_D = gradients_of(others[-1])
    dparams_PCD = unread[-1].at[0].set(jnp.stack(dparams_D))
    return (dx_BSD, dparams_PCD) if keep is None else (dx_BSD, dy_BSD, dparams_PCD)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    "cut", [MeshConfig(data=2, model=2), MeshConfig(data=1, fsdp=2, model=2)], ids=["data", "fsdp"]
)
def test_every_device_computes_its_own_rows_and_heads(
    cut: MeshConfig, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["jax_triton"], "triton_call", emulated_call)
    mesh = make_mesh(cut, jax.devices()[:4])
    c = dataclasses.replace(SMALL, dropout=dropout, attention_dropout=dropout)
    wanted = losses_and_gradients(c, tiny.one_device())
    assert_close(losses_and_gradients(dataclasses.replace(c, **BY_TRITON), mesh), wanted, 2e-4)


@pytest.mark.parametrize(
    ("c", "device", "message"),
    [
        (
            {"norm": "triton"},
            ("cpu", "cpu"),
            r"^model.norm='triton' runs on NVIDIA's A100, H100 and H200, not on cpu; use auto or xla$",
        ),
        ({"norm": "triton", "family": "modernbert"}, H100, "the blocks of model.family='modernbert' what they read"),
        ({"norm": "triton", "width": 4096, "heads": 64}, H100, "takes a width of up to 2048, not 4096"),
        (
            {"attention": "triton"},
            ("NVIDIA GeForce RTX 4090", "gpu"),
            "not on NVIDIA GeForce RTX 4090; use auto or xla",
        ),
        ({"attention": "triton"}, ("NVIDIA B200", "gpu"), "NVIDIA's H100 and H200, not on NVIDIA B200"),
        ({"norm": "triton"}, ("NVIDIA B200", "gpu"), "NVIDIA's A100, H100 and H200, not on NVIDIA B200"),
        ({"attention": "triton", "heads": 4}, H100, "takes heads of a width of 16, 32, 64, not 192"),
        ({"attention": "triton", "family": "modernbert"}, H100, "no local windows"),
    ],
)
def test_a_kernel_that_cannot_is_an_error(c: dict[str, Any], device: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kernels.check(ModelConfig(**c), device, positions=128, dtype="bfloat16", most_spans=1)


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"dropout": 0.1}, "triton"),
        ({"dropout": 0.1, "positions": 512}, "triton"),
        ({"dropout": 0.1, "positions": 512, "most_spans": 4}, "triton"),
        ({"most_spans": 4}, "triton"),
        ({}, "triton"),
        ({"positions": 512}, "cudnn"),  # which is faster there
        ({"positions": 64}, "cudnn"),
        ({"dropout": 0.1, "positions": 112}, "xla"),
        ({"dropout": 0.1, "head_width": 32}, "xla"),
        ({"positions": 512, "head_width": 128}, "cudnn"),
        ({"positions": 512, "head_width": 128, "most_spans": 4}, "xla"),
        ({"dropout": 0.1, "positions": 100}, "xla"),
        ({"dropout": 0.1, "device_kind": "NVIDIA A100-SXM4-80GB"}, "xla"),
        ({"device_kind": "NVIDIA A100-SXM4-80GB"}, "cudnn"),
    ],
)
def test_auto_takes_the_fastest_that_can(change: dict[str, Any], taken: str) -> None:
    case = kernels.Case(*H100, positions=128, head_width=64, dtype="bfloat16")
    assert kernels.choose("auto", dataclasses.replace(case, **change)) == taken


def test_one_that_is_asked_for_and_cannot_gives_way() -> None:
    case = kernels.Case(*H100, positions=100, head_width=64, dtype="bfloat16", dropout=0.1)
    assert "multiple of 16 positions, not of 100" in str(kernels.obstacle("triton", case))
    assert kernels.choose("triton", case) == "xla"


@pytest.mark.parametrize(
    ("asked", "on_h100", "on_a100"), [("auto", "triton", "xla"), ("triton", "triton", "triton"), ("xla", "xla", "xla")]
)
def test_what_normalizes(asked: Any, on_h100: str, on_a100: str) -> None:
    c = ModelConfig(norm=asked)
    assert kernels.norm_of(c, H100) == on_h100
    assert kernels.norm_of(c, ("NVIDIA A100-SXM4-80GB", "gpu")) == on_a100
    assert kernels.norm_of(c, ("cpu", "cpu")) == "xla"
    assert kernels.norm_of(dataclasses.replace(c, family="modernbert"), H100) == "xla"


def test_what_computes_is_said() -> None:
    assert kernels.describe(["triton"] * 2, "triton") == "attention by triton, sums and norms by triton"
    assert kernels.describe(["xla", "cudnn"], "xla") == "attention by xla and cudnn"


@pytest.mark.parametrize(
    ("how", "dtype", "message"),
    [
        ({"attention": "triton"}, "float32", "computes in bfloat16, not in float32"),
        (
            {"attention": "triton"},
            "bfloat16",
            "needs jax-triton .*halted; None in sys.modules.: pip install 'bertjax.triton.'; use auto or xla or cudnn",
        ),
        (
            {"norm": "triton"},
            "bfloat16",
            "needs jax-triton .*halted; None in sys.modules.: pip install 'bertjax.triton.'; use auto or xla",
        ),
    ],
)
def test_what_is_missing_is_named(how: Any, dtype: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "jax_triton", None)
    choice._obstacle_without_triton.cache_clear()
    with pytest.raises(UserError, match=message):
        kernels.check(ModelConfig(attention_dropout=0, **how), H100, positions=128, dtype=dtype, most_spans=1)
    choice._obstacle_without_triton.cache_clear()


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="triton brings no ptxas")
def test_kernels_compile_for_gpus_and_stay_in_their_registers() -> None:
    root = Path(__file__).parents[2]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.model.compile_triton"], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len({line["name"] for line in lines}) == 60
    assert [line for line in lines if line["spilled"] > 40] == []  # nothing beside what a program reads
    assert max(line["shared"] for line in lines) <= 163 * 1024  # of an A100's multiprocessor

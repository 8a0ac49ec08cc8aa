from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.config import MeshConfig, ModelConfig
from bertjax.errors import UserError
from bertjax.model import encoder, kernels
from bertjax.model.attention import attention
from bertjax.model.kernels import choice, cudnn, splash
from bertjax.sharding import ACT_B, ACT_BSHK, make_mesh
from tests.model.attending import averages_and_gradients, lengths_to_spans, random_inputs

TPU = kernels.Case(device_kind="TPU v5 lite", platform="tpu", positions=128, head_width=64, dtype="bfloat16")
H100 = dataclasses.replace(TPU, device_kind="NVIDIA H100 80GB HBM3", platform="gpu")
A100 = dataclasses.replace(H100, device_kind="NVIDIA A100-SXM4-80GB")
AMD = dataclasses.replace(TPU, device_kind="AMD Instinct MI300X", platform="gpu")
CPU = dataclasses.replace(TPU, device_kind="cpu", platform="cpu")
MODEL = ModelConfig(width=128, heads=2, attention_dropout=0)

PADDED_BS = lengths_to_spans([[256], [100]], 256)
PACKED_BS = lengths_to_spans([[60, 100, 90], [130, 126]], 256)


@pytest.fixture(autouse=True)
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `auto` takes where it is: tests/model/test_triton.py."""
    monkeypatch.setattr(choice, "_obstacle_without_triton", lambda: "is not there")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a TPU its kernel is computed operation by operation."""
    monkeypatch.setattr(splash, "attend", functools.partial(splash.attend, interpret=True))


by_splash = functools.partial(kernels.attend, "splash")
reference = functools.partial(attention, dropout=0.0, key=None, kernel="xla")


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 4e-2)])
@pytest.mark.parametrize("spans_BS", [PADDED_BS, PACKED_BS], ids=["padded", "packed"])
@pytest.mark.usefixtures("interpreted")
def test_splash_is_the_reference(spans_BS: jax.Array, dtype: Any, tolerance: float) -> None:
    inputs = random_inputs(spans_BS, dtype)
    wanted = averages_and_gradients(reference, inputs)
    found = averages_and_gradients(by_splash, inputs)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), atol=tolerance)


@pytest.mark.usefixtures("interpreted")
def test_splash_cuts_rows_into_blocks() -> None:
    """640 positions are five blocks of 128, and a span that crosses them is one."""
    inputs = random_inputs(lengths_to_spans([[300, 320]], 640))
    wanted, found = reference(*inputs[:4]), jax.jit(by_splash)(*inputs[:4])
    np.testing.assert_allclose(found[:, :620], wanted[:, :620], atol=1e-5)


@pytest.fixture
def cudnn_is_xla(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU the call to cuDNN is computed by JAX's own reference of the same meaning."""
    real = jax.nn.dot_product_attention

    def by_xla(*arrays: jax.Array, implementation: str, **how: Any) -> jax.Array:
        assert implementation == "cudnn"
        return real(*arrays, implementation="xla", **how)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)


@pytest.mark.usefixtures("cudnn_is_xla")
def test_what_cudnn_is_asked_for_is_the_reference() -> None:
    inputs = random_inputs(PADDED_BS)
    wanted, found = (averages_and_gradients(attend, inputs) for attend in (reference, cudnn.attend))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.usefixtures("cudnn_is_xla")
def test_rows_of_padding_stay_finite_in_cudnn() -> None:
    found = averages_and_gradients(cudnn.attend, random_inputs(lengths_to_spans([[]], 8)))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.fixture
def with_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX traces and lowers what calls cuDNN without a GPU, if it believes in one."""
    stablehlo = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(stablehlo, "check_cudnn_version", lambda: 91_000)
    monkeypatch.setattr(stablehlo, "check_compute_capability", lambda _: True)


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("products", 2)])
@pytest.mark.usefixtures("with_cudnn")
def test_what_cudnn_computed_is_kept_unless_it_shall_not_be(remat: str, times: int) -> None:
    q_BSHK, k_BTHK, v_BTHK, spans_BS, _ = random_inputs(PADDED_BS, jnp.bfloat16)

    def weighted(q_BSHK: jax.Array) -> jax.Array:
        return jnp.sum(cudnn.attend(q_BSHK * 2, k_BTHK, v_BTHK, spans_BS).astype(jnp.float32) ** 2)

    traced = jax.make_jaxpr(jax.grad(jax.checkpoint(weighted, policy=encoder.KEPT[remat])))(q_BSHK)
    assert str(traced).count(cudnn.PRIMITIVE) == times


def lowered_for_nvidia(spans_BS: jax.Array, most_spans: int) -> str:
    """Returns the program of the gradients by q, k and v."""
    q_BSHK, k_BTHK, v_BTHK, _, _ = random_inputs(spans_BS, jnp.bfloat16, head_width=64)

    def weighted(q_BSHK: jax.Array, k_BTHK: jax.Array, v_BTHK: jax.Array) -> jax.Array:
        return jnp.sum(cudnn.attend(q_BSHK, k_BTHK, v_BTHK, spans_BS, most_spans).astype(jnp.float32))

    traced = jax.jit(jax.grad(weighted, argnums=(0, 1, 2))).trace(q_BSHK, k_BTHK, v_BTHK)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.usefixtures("with_cudnn")
def test_cudnn_is_given_lengths_and_no_mask() -> None:
    lowered = lowered_for_nvidia(PADDED_BS, 1)
    assert set(re.findall(r"__cudnn\$\w+", lowered)) == {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert lowered.count("PADDING") == 2


@pytest.mark.usefixtures("with_cudnn")
def test_cudnn_is_given_the_spans_of_packed_rows() -> None:
    lowered = lowered_for_nvidia(PACKED_BS, 4)
    assert lowered.count("max_seg_per_batch\\22: 4") == 2


def test_spans_are_told_by_their_lengths_and_starts() -> None:
    spans_BS = lengths_to_spans([[3, 1, 2], [4], []], 8)
    lengths_BP, starts_BQ = cudnn.lengths_and_starts(spans_BS, 3)
    assert lengths_BP.tolist() == [[3, 1, 2], [4, -1, -1], [-1, -1, -1]]
    assert starts_BQ.tolist() == [[0, 3, 4, -1], [0, -1, -1, -1], [-1, -1, -1, -1]]


def test_what_jax_does_not_publish_is_taken_if_asked_for() -> None:
    case = dataclasses.replace(H100, most_spans=8)
    assert kernels.choose("auto", case) == "xla"
    assert kernels.choose("cudnn", case) == "cudnn"
    for name in ("NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA B200", "NVIDIA GB200", "NVIDIA H100 PCIe"):
        assert choice.PACKED_ON.search(name)
    for name in ("NVIDIA A100-SXM4-80GB", "NVIDIA L40S", "NVIDIA A10G", "Tesla V100-SXM2-16GB"):
        assert not choice.PACKED_ON.search(name)


@pytest.mark.usefixtures("interpreted", "cudnn_is_xla")
@pytest.mark.parametrize("name", ["splash", "cudnn"])
def test_every_device_computes_its_own_rows_and_heads(name: kernels.Kernel) -> None:
    inputs = random_inputs(PADDED_BS)
    wanted = averages_and_gradients(reference, inputs)
    mesh = make_mesh(MeshConfig(data=2, model=2), jax.devices()[:4])
    with jax.set_mesh(mesh):
        cuts = [ACT_BSHK] * 3 + [ACT_B, ACT_BSHK]
        cut = tuple(jax.device_put(x, jax.NamedSharding(mesh, spec)) for x, spec in zip(inputs, cuts, strict=True))
        found = averages_and_gradients(functools.partial(kernels.attend, name, most_spans=1), cut)
        assert jax.typeof(found[0]).sharding.spec == cut[0].sharding.spec
        compiled = (
            jax.jit(functools.partial(kernels.attend, name, most_spans=1)).lower(*cut[:4]).compile().as_text() or ""
        )
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "permute") if word in compiled]
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "chosen"),
    [
        (CPU, "xla"),
        (TPU, "splash"),
        (dataclasses.replace(TPU, dtype="float32"), "splash"),
        (dataclasses.replace(TPU, most_spans=8), "splash"),
        (dataclasses.replace(TPU, positions=512), "splash"),
        (dataclasses.replace(TPU, positions=100), "xla"),
        (dataclasses.replace(TPU, dropout=0.1), "xla"),
        (dataclasses.replace(TPU, local=True), "xla"),
        (H100, "cudnn"),
        (AMD, "xla"),
        (dataclasses.replace(H100, positions=100), "cudnn"),
        (dataclasses.replace(H100, dtype="float32"), "xla"),
        (dataclasses.replace(H100, most_spans=None), "xla"),
        (dataclasses.replace(A100, most_spans=8), "xla"),
        (dataclasses.replace(H100, head_width=20), "xla"),
        (dataclasses.replace(H100, head_width=256), "xla"),
        (dataclasses.replace(H100, dropout=0.1), "xla"),
        (dataclasses.replace(H100, local=True), "xla"),
    ],
    ids=str,
)
def test_auto_takes_the_kernel_of_the_backend_where_it_can(case: kernels.Case, chosen: kernels.Kernel) -> None:
    assert kernels.choose("auto", case) == chosen
    assert kernels.choose("xla", case) == "xla"
    # A model trained on a TPU is read on a CPU, too.
    assert kernels.choose("splash", case) == ("splash" if chosen == "splash" else "xla")


def test_evaluation_is_computed_as_the_training_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key nothing is dropped, but what was announced, and checked, is what computes."""
    cases: list[kernels.Case] = []
    choose = kernels.choose

    def noted(asked: Any, case: kernels.Case) -> kernels.Kernel:
        cases.append(case)
        return choose(asked, case)

    monkeypatch.setattr(kernels, "choose", noted)
    x_BSHK = jnp.ones((1, 2, 1, 4))
    attention(x_BSHK, x_BSHK, x_BSHK, jnp.ones((1, 2), jnp.int32), dropout=0.1, key=None, kernel="auto")
    assert [case.dropout for case in cases] == [0.1]


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (
            dataclasses.replace(MODEL, attention="splash"),
            r"^model.attention='splash' runs on TPUs, not on cpu; use auto or xla$",
        ),
        (
            dataclasses.replace(MODEL, attention="cudnn"),
            r"runs on NVIDIA GPUs from Ampere \(A100\) on, not on cpu; use auto or xla",
        ),
        (
            dataclasses.replace(MODEL, attention="splash", attention_dropout=0.1),
            "drops no weights, but model.attention_dropout=0.1",
        ),
        (dataclasses.replace(MODEL, attention="splash", family="modernbert"), "no local windows"),
    ],
)
def test_a_kernel_that_cannot_is_an_error(c: ModelConfig, message: str) -> None:
    rows: dict[str, Any] = {"positions": 128, "dtype": "bfloat16", "most_spans": 1}
    with pytest.raises(UserError, match=message):
        kernels.check(c, ("cpu", "cpu"), **rows)


@pytest.mark.parametrize(
    ("asked", "case", "reason"),
    [
        ("splash", dataclasses.replace(TPU, positions=100), "rows of a multiple of 128 positions, not of 100"),
        ("cudnn", dataclasses.replace(H100, dtype="float32"), "bfloat16, not in float32"),
        ("cudnn", dataclasses.replace(H100, device_kind="Tesla V100-SXM2-16GB"), "from Ampere (A100) on, not on Tesla"),
        ("cudnn", dataclasses.replace(H100, head_width=20), "multiple of 8 up to 128, not 20"),
        ("cudnn", dataclasses.replace(H100, most_spans=None), "the most spans are known"),
        ("cudnn", dataclasses.replace(A100, most_spans=8), "packed rows from Hopper (H100) on, not on NVIDIA A100"),
    ],
)
def test_why_a_kernel_cannot(asked: kernels.Kernel, case: kernels.Case, reason: str) -> None:
    assert reason in str(kernels.obstacle(asked, case))


@pytest.mark.parametrize("name", ["A100-SXM4-80GB", "GeForce RTX 2050", "RTX 2000 Ada Generation", "RTX A6000", "L40S"])
def test_cudnn_can_from_ampere_on(name: str) -> None:
    assert kernels.obstacle("cudnn", dataclasses.replace(H100, device_kind=f"NVIDIA {name}")) is None


@pytest.mark.parametrize("name", ["GeForce RTX 2080 Ti", "T4G", "T1000 8GB", "GeForce MX450", "TITAN RTX"])
def test_cudnn_cannot_before_ampere(name: str) -> None:
    case = dataclasses.replace(H100, device_kind=f"NVIDIA {name}")
    assert kernels.obstacle("cudnn", case) == f"runs on NVIDIA GPUs from Ampere (A100) on, not on NVIDIA {name}"


def test_a_check_that_passes_returns_what_computes() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert kernels.check(MODEL, sharding.device_of(mesh), positions=128, dtype="bfloat16", most_spans=1) == "xla"

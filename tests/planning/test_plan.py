from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest

from bertjax import backend, cli, sharding
from bertjax.config import Config, DataConfig, MeshConfig, ModelConfig, OptimizerConfig, Prng, TrainConfig
from bertjax.data.batches import full_batch
from bertjax.errors import UserError
from bertjax.model import kernels
from bertjax.planning import hardware, page, plan, search
from bertjax.planning.collectives import Collective
from bertjax.planning.compilation import Memory, Step
from bertjax.planning.hardware import GIB, Chip, Topology
from bertjax.sharding import make_mesh
from bertjax.training.flops import flops_per_token

CHIP = Chip("TPU v5e", memory=1000, memory_rate=1e3, link_rate=1e2, network_rate=1e1)
POD = Topology("v5e:2x4", CHIP, slices=2, chips=8)
SENT = (Collective("all-reduce", ("data",), group=8, slices=2, count=1, size=80),)
CONFIG = Config(
    model=ModelConfig(width=32, layers=2, heads=4, mlp_width=64, max_positions=16, dropout=0, attention_dropout=0),
    data=DataConfig(seq_len=16),
    optimizer=OptimizerConfig(warmup_steps=None),
    train=TrainConfig(steps=3600, batch_size=16),
)


def planned(c: Config, per_row: int = 30) -> plan.Plan:
    """Returns a plan without a compiler: memory grows with the batch, and shrinks with remat."""
    needed = 100 + c.train.batch_size * per_row // (2 if c.model.remat == "block" else 1) // c.train.microbatches
    memory = Memory(arguments=100, temporaries=needed - 100, outputs=50, aliased=50)
    step = Step(1.0, needed, memory if needed <= CHIP.memory else None, SENT if needed <= CHIP.memory else ())
    return plan.Plan(plan.with_vocabulary(c), POD, {"data": 8, "fsdp": 1, "model": 1}, 1, c.train.steps, step)


def with_rows(rows: int) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, batch_size=rows))


def test_a_step_takes_at_least_its_longest_bound_and_at_most_twice_their_sum() -> None:
    made = planned(CONFIG)
    found = plan.bounds(made)
    flops = 16 * 16 * flops_per_token(CONFIG.model, plan.VOCABULARY, full_batch(CONFIG.data, 1))
    assert found.compute == pytest.approx(flops / 8 / 197e12)
    assert found.memory == (100 + 50 + 2 * 480) / 1e3
    assert (found.links, found.network) == (120 / 1e2, 20 / 1e1)
    assert (found.least, found.most) == (2.0, pytest.approx(2 * (found.compute + 1.11 + 1.2 + 2)))
    figures = plan.figures(made)
    assert figures["chip_hours"][0] == pytest.approx(2 * 8)  # 3,600 steps of 2 s
    assert figures["days"][0] == pytest.approx(2 / 24)
    assert figures["mfu"][0] == pytest.approx(flops / 8 / 197e12 / 2)
    assert figures["measured"] is False


def test_what_is_computed_again_counts_as_time_and_not_as_flops() -> None:
    flops = plan.step_flops(planned(CONFIG))
    recomputed = [
        plan.recomputed(dataclasses.replace(CONFIG.model, remat=r), flops) for r in ("none", "products", "block")
    ]
    assert recomputed == [0, flops.attention / 3, (flops.body + flops.attention) / 3]


def test_the_page_has_every_part() -> None:
    text = "\n".join(page.lines(planned(CONFIG)))
    assert "2 x v5e:2x4, 8 chips, mesh {'data': 8, 'fsdp': 1, 'model': 1}" in text
    assert "nothing here was measured" in text
    assert "all-reduce over data (8 chips, 1 times)" in text
    for part in ("memory of a chip", "MFU", "chip-hours", "vocabulary 30522"):
        assert part in text


def test_json_has_what_the_page_has() -> None:
    found = json.loads(json.dumps(page.as_json(planned(CONFIG))))
    assert found["memory"] == {
        "arguments": 100,
        "temporaries": 480,
        "outputs": 50,
        "aliased": 50,
        "needed": 580,
        "available": 1000,
    }
    assert found["collectives"][0]["within"] == 120
    assert found["rows_per_chip"] == 2


def test_the_precision_is_what_the_run_would_take() -> None:
    c = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, precision="auto"))
    gpus = hardware.find_topology("h100x8")
    assert plan.make_plan(c, gpus, hardware.devices(gpus)).config.train.precision == "bfloat16"
    asked = dataclasses.replace(c, model=dataclasses.replace(c.model, attention="cudnn"))
    assert plan.make_plan(asked, gpus, hardware.devices(gpus)).config.model.attention == "cudnn"
    splash = dataclasses.replace(c, model=dataclasses.replace(c.model, attention="splash"))
    with pytest.raises(UserError, match="runs on TPUs, not on NVIDIA H100; use auto or xla or cudnn"):
        plan.make_plan(splash, gpus, hardware.devices(gpus))
    here = jax.devices()[0]
    assert plan.with_precision(c, [here]).train.precision == backend.fastest_precision(here)
    assert plan.with_precision(CONFIG, [here]) is CONFIG


def test_what_does_not_fit_is_a_table_of_what_would() -> None:
    made = planned(with_rows(64))
    assert not made.fits
    remedies = search.remedies(made, planned)
    found = {remedy.change: (remedy.needed, remedy.fits) for remedy in remedies}
    assert found == {
        "--model.remat=products": (2020, False),
        "--model.remat=block": (1060, False),
        "--train.microbatches=2": (1060, False),
        "--mesh.data=2 --mesh.fsdp=4": (2020, False),
        "--train.batch_size=32": (1060, False),
    }
    text = "\n".join(page.lines(made, remedies))
    assert "it does not fit; what a chip needs with one change" in text
    assert f"--train.batch_size=32               {1060 / GIB:>9.2f} GiB  too large" in text
    assert "MFU" not in text
    assert page.as_json(made, remedies)["fits"] is False


def test_changes_that_are_refused_are_left_out() -> None:
    def refusing(c: Config) -> plan.Plan:
        if c.train.microbatches > 1:
            raise UserError("does not divide")
        return planned(c)

    changes = [remedy.change for remedy in search.remedies(planned(with_rows(64)), refusing)]
    assert "--train.microbatches=2" not in changes
    assert "--train.batch_size=32" in changes


@pytest.mark.parametrize("rows", [8, 16, 24, 64, 512])
@pytest.mark.parametrize(("per_row", "largest"), [(30, 24), (3, 296), (110, 8)])
def test_the_largest_batch_is_found_in_few_compilations(rows: int, per_row: int, largest: int) -> None:
    compiled = []

    def make_plan(c: Config) -> plan.Plan:
        compiled.append(c.train.batch_size)
        return planned(c, per_row)

    found = search.largest_batch(planned(with_rows(rows), per_row), make_plan)
    assert found.fits is not None
    assert largest / search.CLOSE - 8 < found.fits <= largest
    assert found.too_large is not None
    assert found.too_large > largest
    assert len(compiled) < search.MOST_COMPILED
    assert all(rows % 8 == 0 for rows in compiled)


def test_where_nothing_fits_the_largest_batch_is_none() -> None:
    found = search.largest_batch(planned(with_rows(16), 1000), lambda c: planned(c, 1000))
    assert found == search.LargestBatch(fits=None, too_large=8)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (with_rows(20), r"train\.batch_size=20 does not divide over 8 data shards; use 16 or 24"),
        (dataclasses.replace(CONFIG, mesh=MeshConfig(data=3)), r"does not multiply out to the 8 devices"),
        (dataclasses.replace(CONFIG, mesh=MeshConfig(data=1, model=8)), r"model\.heads=4 does not divide"),
    ],
)
def test_mistakes_are_those_that_train_tells(c: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan.make_plan(c, POD, jax.devices())


Call = Callable[..., int]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    file = tmp_path / "config.py"
    file.write_text(
        "from bertjax.config import *\n\n\ndef get_config():\n"
        "    model = ModelConfig(width=32, layers=1, heads=4, mlp_width=64, dropout=0, attention_dropout=0)\n"
        "    return Config(model=model, data=DataConfig(seq_len=16), train=TrainConfig(batch_size=8))\n"
    )

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["bertjax", "plan", f"--config={file}", *arguments])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


def test_mistakes_on_the_command_line(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--topology=v5e:3x3") == 1
    assert capsys.readouterr().err.startswith("error: --topology=v5e:3x3 is unknown; use one of v5e:{1x1,")
    assert call("--topology=v5e:2x2", "--train.batchsize=3") == 2


def test_the_command_plans_a_pod(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("libtpu")
    assert call("--topology=v5e:2x2", "--train.batch_size=12", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["fits"], found["rows_per_chip"], found["chips"]) == (True, 3, 4)
    assert [(one["kind"], one["axes"]) for one in found["collectives"]] == [("all-reduce", ["data"])]
    assert call("--topology=v5e:2x2", "--train.batch_size=10") == 1
    assert "does not divide over 4 data shards; use 8 or 12" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("attention_dropout", "kernel", "pairs_per_row", "prng"),
    [
        (0.1, "xla", 1, "threefry2x32"),
        (0.0, "splash", 4, "threefry2x32"),
        (0.1, "xla", 1, "rbg"),
        (0.1, "xla", 1, "unsafe_rbg"),
    ],
)
def test_data_parallelism_on_tpus_sends_gradients_and_nothing_that_grows_with_the_rows(
    attention_dropout: float, kernel: str, pairs_per_row: int, prng: Prng
) -> None:
    """Attention, its dropout, packed rows: all that is of a row stays on its chip."""
    pytest.importorskip("libtpu")
    topology = hardware.find_topology("v5e:2x2")
    chips = hardware.devices(topology)

    def sent(rows: int) -> int:
        c = Config(
            model=ModelConfig(
                width=128, layers=2, heads=2, mlp_width=256, vocab_size=256, attention_dropout=attention_dropout
            ),
            train=TrainConfig(batch_size=rows, precision="bfloat16", prng=prng),
        )
        mesh = make_mesh(c.mesh, list(chips))
        of_rows: dict[str, Any] = {"positions": 128, "dtype": "bfloat16", "most_spans": pairs_per_row}
        assert kernels.check(c.model, sharding.device_of(mesh), **of_rows) == kernel
        collectives = plan.make_plan(c, topology, chips, pairs_per_row=pairs_per_row).step.collectives
        assert {one.kind for one in collectives} == {"all-reduce"}
        return sum(one.size for one in collectives)

    few = sent(16)
    assert few > 0
    assert sent(64) == few

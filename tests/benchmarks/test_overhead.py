"""What the loop adds to the step: the loop goes on for as many steps as it is let through, and no further."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import overhead
from benchmarks.train_step import Measured
from bertjax.config import Config, DataConfig, ModelConfig, TrainConfig
from bertjax.errors import UserError


def test_the_gate_lets_so_many_steps_through_and_no_more() -> None:
    gate, seen = overhead.Gate(untimed=1), list[int]()
    loop: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def step(state: int, seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        seen.append(state)
        return state + 1, state

    def run() -> None:
        state, held = 0, gate.around(step)
        while state < 6:
            state, _ = held(state, 0.1 if state else 1.0)
        loop.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    assert 0.2 <= gate.run(2, loop) < 0.9
    time.sleep(0.3)
    assert seen == [0, 1, 2]
    with pytest.raises(UserError, match="the run has ended: it had no more steps"):
        gate.run(4, loop)


def test_the_loop_is_timed_beside_its_step(corpus: Path) -> None:
    c = Config(
        model=ModelConfig(width=16, layers=1, heads=2, mlp_width=32, max_positions=32),
        data=DataConfig(path=str(corpus), seq_len=32, max_predictions=5),
        train=TrainConfig(batch_size=4),
    )
    found = overhead.measure(Measured(c, rounds=1, turn_seconds=0.2))
    assert found["rows"] == 4
    assert found["overhead"] == pytest.approx(
        found["seconds"]["loop"]["median"] / found["seconds"]["step"]["median"] - 1
    )
    with pytest.raises(UserError, match=r"--data\.path is not set"):
        overhead.measure(Measured(dataclasses.replace(c, data=dataclasses.replace(c.data, path=""))))

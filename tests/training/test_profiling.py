"""A trace is written of the steps that are asked for, with their numbers, and of no others."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

import train
from bertjax.config import Config, TrainConfig
from bertjax.storage import Folder
from bertjax.training.profiling import traced


def steps_in(folder: Path) -> list[int]:
    """Returns the numbers of the steps in the one trace there, as Perfetto reads it."""
    (file,) = folder.rglob("*.trace.json.gz")
    assert list(folder.rglob("*.xplane.pb"))  # what TensorBoard reads
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


def test_a_run_profiles_the_steps_it_is_asked_for(config: Config, tmp_path: Path) -> None:
    asked = dataclasses.replace(config.train, steps=5, eval_every=5, eval_rows=16, profile_from=3, profile_steps=2)
    train.run(dataclasses.replace(config, train=asked), tmp_path / "run")
    assert steps_in(tmp_path / "run" / "profile") == [3, 4]


def test_a_run_that_leaves_within_them_has_a_trace_of_what_it_did(tmp_path: Path) -> None:
    steps = traced(((n, None) for n in range(7, 20)), range(5, 15), Folder(tmp_path))
    assert [next(steps)[0], next(steps)[0]] == [7, 8]
    steps.close()  # type: ignore[attr-defined]
    assert steps_in(tmp_path / "profile") == [7, 8]


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert list(traced([(1, "a"), (2, "b")], TrainConfig().profiled, Folder(tmp_path))) == [(1, "a"), (2, "b")]
    assert not list(tmp_path.iterdir())


def test_steps_that_are_not_there_are_refused() -> None:
    assert TrainConfig(steps=10, profile_from=6, profile_steps=5).profiled == range(6, 11)
    with pytest.raises(ValueError, match="profile_from=0 is not greater than 0"):
        TrainConfig(profile_from=0)
    with pytest.raises(ValueError, match="profile_steps=0 is not greater than 0"):
        TrainConfig(profile_from=1, profile_steps=0)
    with pytest.raises(ValueError, match="the last is step 11, but there are steps=10"):
        TrainConfig(steps=10, profile_from=7)

"""The benchmark of the step, made small: it times what it says, and its sums are right."""

from __future__ import annotations

import atexit
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import alternation, rows, train_step
from benchmarks.alternation import Contender, Timing, Trial, alternate, best, ratio
from bertjax.config import Config, DataConfig, ModelConfig, TrainConfig
from bertjax.errors import UserError

SMALL = Config(
    model=ModelConfig(vocab_size=60, width=16, layers=1, heads=2, mlp_width=32, max_positions=32),
    data=DataConfig(seq_len=32, max_predictions=5),
    train=TrainConfig(batch_size=4),
)


def test_a_made_up_batch_has_the_stated_lengths_and_googles_count_of_predictions() -> None:
    batch = rows.made_up_batch(SMALL.data, 3, vocab_size=60, lengths=(8, 20, 12), pairs_per_row=2)
    lengths = [[int((row == k).sum()) for k in (1, 2)] for row in batch["spans"]]
    assert lengths == [[8, 20], [12, 8], [20, 12]]
    assert batch["weights"].sum(axis=1).tolist() == [1 + 3, 2 + 1, 3 + 2]
    assert batch["ids"].max() < 60
    np.testing.assert_array_equal(batch["positions"][0, :28], [*range(8), *range(20)])
    with pytest.raises(UserError, match=r"lengths=\(30,\) x 2 a row: use 2 or more, at most 32 a row"):
        rows.made_up_batch(SMALL.data, 3, vocab_size=60, lengths=(30,), pairs_per_row=2)


def test_unpacked_rows_ask_the_same() -> None:
    packed = rows.made_up_batch(SMALL.data, 3, vocab_size=60, lengths=(8, 20, 12), pairs_per_row=2)
    single = rows.unpacked(packed)
    assert single["ids"].shape == (6, 20)
    assert [int(row.sum()) for row in single["spans"]] == [8, 20, 12, 8, 20, 12]
    assert single["next"].tolist() == packed["next"].reshape(-1, 1).tolist()

    def asked(batch: dict[str, np.ndarray]) -> list[tuple[int, int, int]]:
        """Position within its pair, what is read there, what is right, of every prediction."""
        b, m = np.nonzero(batch["weights"])
        places = batch["predict"][b, m]
        columns = (batch["positions"][b, places], batch["ids"][b, places], batch["labels"][b, m])
        return list(zip(*(column.tolist() for column in columns), strict=True))

    assert asked(single) == asked(packed)
    assert asked(rows.with_every_position(packed)) == asked(packed)
    assert rows.with_every_position(packed)["predict"].shape == (3, 32)


def sleeper(seconds: float) -> Trial:
    def run(steps: int) -> float:
        started = time.perf_counter()
        time.sleep(seconds * steps)
        return time.perf_counter() - started

    return Trial(run, lambda: {"process": os.getpid(), "word": os.environ.get("WORD")})


def refuser() -> Trial:
    raise UserError("no such thing")


def test_contenders_take_turns_in_processes_of_their_own() -> None:
    contenders = {"quick": Contender(sleeper, (0.01,), {"WORD": "a"}), "slow": Contender(sleeper, (0.03,))}
    found = alternate(contenders, rounds=3, turn_seconds=0.03)
    assert found["quick"].facts["word"] == "a"
    assert found["slow"].facts["word"] is None
    assert len({os.getpid(), *(timing.facts["process"] for timing in found.values())}) == 3
    assert len(found["quick"].seconds) == 3
    assert 0.01 <= found["quick"].fastest <= found["quick"].median < 0.03 <= found["slow"].fastest
    with pytest.raises(UserError, match="no such thing"):
        alternate({"wrong": Contender(refuser, ())}, rounds=1, turn_seconds=1)


def alone(path: str) -> Trial:
    """Holds a file as long as its process lives, as a process does a TPU."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    atexit.register(os.remove, path)
    return sleeper(0.001)


def test_on_tpus_each_ends_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contenders = {name: Contender(alone, (str(tmp_path / "held"),)) for name in ("one", "other")}
    with pytest.raises(FileExistsError):
        alternate(contenders, rounds=2, turn_seconds=0.001)
    monkeypatch.setattr(alternation.backend, "has_tpus", lambda: True)
    found = alternate(contenders, rounds=2, turn_seconds=0.001)
    assert [len(timing.seconds) for timing in found.values()] == [2, 2]


def test_ratios_are_of_the_same_round_and_with_the_fastest() -> None:
    timings = {
        "products_float32": Timing([0.5], {"flop": 3.0}),
        "ours_float32": Timing([1, 2, 3], {}),
        "ours_bfloat16": Timing([1, 1, 2], {}),
        "huggingface_eager_float32": Timing([9, 9, 9], {}),
        "huggingface_compiled_float32": Timing([2, 8, 6], {}),
        "huggingface_products_float32": Timing([0.25], {"flop": 3.0}),
        "huggingface_eager_bfloat16": Timing([3, 4, 5], {}),
    }
    assert train_step.ratios(timings) == {"ratio_float32": 2.0, "ratio_best": 3.0}
    assert train_step.best_products(timings, "float32") == 12.0
    assert train_step.best_products(timings, "bfloat16") == 0.0
    assert best(timings, ["ours_float32", "ours_bfloat16"]) == "ours_bfloat16"
    assert ratio(timings["ours_float32"], timings["ours_bfloat16"]) == 1.5


def test_all_shares_of_the_peak_are_of_one_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = {
        "ours_bfloat16": Timing([2.0], {"peak_flops": 1e6}),
        "huggingface_eager_bfloat16": Timing([4.0], {}),
        "products_bfloat16": Timing([1.0], {"flop": 5e5}),
    }
    monkeypatch.setattr(train_step, "alternate", lambda *_, **__: timings)
    found = train_step.measure(train_step.Arguments(SMALL, precisions=("bfloat16",)))
    assert found["ours_bfloat16"]["mfu"] == pytest.approx(found["flop"] / 2 / 1e6)
    assert found["huggingface_eager_bfloat16"]["mfu"] == pytest.approx(found["flop"] / 4 / 1e6)


def test_a_kernel_that_is_not_there_is_refused() -> None:
    a = train_step.Arguments(SMALL, rounds=1, turn_seconds=0.01, precisions=("float32",))
    c = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, attention="splash", attention_dropout=0))
    with pytest.raises(UserError, match=r"model\.attention='splash' runs on TPUs, not on cpu"):
        train_step.measure(dataclasses.replace(a, config=c))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"pairs_per_row": 0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="=0 is less than 1; use 1 or more"):
        train_step.Arguments(SMALL, **wrong)


def test_the_step_is_timed_on_made_up_rows_and_on_a_corpus(config: Config) -> None:
    a = train_step.Arguments(SMALL, lengths=(8, 20), rounds=2, turn_seconds=0.01, precisions=("float32",))
    found = train_step.measure(a)
    ours = found["ours_float32"]
    assert (found["tokens"], found["rows"], found["positions"], found["pairs"]) == (56, 4, 32, 4)
    assert ours["tokens_per_second"]["median"] == pytest.approx(56 / ours["seconds"]["median"])
    rate = found["flop"] / ours["seconds"]["median"]
    assert ours["mfu"] == pytest.approx(rate / found["products_tflops"]["float32"] / 1e12)
    assert ours["attention"] == "xla"
    assert min(ours["host_seconds"], ours["compile_seconds"], ours["gigabytes"]) > 0
    c, batch, next_sentence = train_step.read_batch(dataclasses.replace(a, config=config))
    assert (c.model.vocab_size, batch["ids"].shape, next_sentence) == (100, (16, 32), True)


@pytest.mark.parity
def test_hugging_faces_step_is_timed_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from benchmarks import their_step

    monkeypatch.setattr(their_step, "has_compiler", lambda: False)
    a = train_step.Arguments(SMALL, rounds=1, turn_seconds=0.01, precisions=("float32",), against="huggingface")
    found = train_step.measure(dataclasses.replace(a, lengths=(8, 20), pairs_per_row=2))
    assert found["left_out"][0] == "torch.compile in float32: there is no C++ compiler"
    assert found["huggingface_eager_float32"]["tokens_per_second"]["median"] > 0
    assert found["ratio_float32"] > 0
    assert found["ratio_best"] > 0
    modern = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, family="modernbert"))
    with pytest.raises(UserError, match="compares BERT with next sentences"):
        train_step.measure(dataclasses.replace(a, config=modern))

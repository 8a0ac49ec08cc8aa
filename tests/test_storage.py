"""A run in an object store: every folder named `store` is taken for one, which is written whole files at a time."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path

import pytest

import train
from bertjax import hosts, storage
from bertjax.config import Config
from bertjax.errors import UserError
from bertjax.training.metrics import read_metrics
from bertjax.training.signals import StopRequest
from tests.test_train import untimed, weights


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "store"
    path.mkdir()
    monkeypatch.setattr(storage, "STORES", (str(path),))
    monkeypatch.setattr(storage, "is_on_disk", lambda asked: not str(asked).startswith(str(path)))
    return path


def test_files_come_from_the_store_and_go_back_when_they_changed(store: Path) -> None:
    run = store / "run"
    for name in ("config.json", "tokenizer/vocab.txt", "checkpoints/7/weights", "lock"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    with storage.opened(run) as folder:
        assert folder.path == run
        assert folder.files.name == "run"
        found = {str(p.relative_to(folder.files)) for p in folder.files.rglob("*") if p.is_file()}
        assert found == {"config.json", "tokenizer/vocab.txt"}
        with (folder.files / "metrics.jsonl").open("a") as metrics:
            print("one", file=metrics, flush=True)
            folder.send()
            assert (run / "metrics.jsonl").read_text() == "one\n"
            (run / "config.json").unlink()  # what did not change is not sent again
            print("two", file=metrics)
    assert (run / "metrics.jsonl").read_text() == "one\ntwo\n"
    assert not (run / "config.json").exists()
    assert not folder.files.exists()


def test_a_run_in_a_store_goes_on_from_there(
    finished: Path, config: Config, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(stop: StopRequest) -> bool:
        stop.signum = signal.SIGTERM
        return True

    with monkeypatch.context() as leaving:
        leaving.setattr(StopRequest, "agreed", leave)
        with pytest.raises(SystemExit):
            train.run(config, store / "run")
    assert [line["step"] for line in read_metrics(store / "run")] == [1]
    train.run(config, store / "run")
    assert untimed(store / "run") == untimed(finished)
    assert all((x == y).all() for x, y in zip(weights(store / "run"), weights(finished), strict=True))
    assert "checkpoints" in {p.name for p in (store / "run").iterdir()}
    assert (store / "run" / "report.html").stat().st_size > 1000
    assert "<title>run</title>" in (store / "run" / "report.html").read_text()


def test_on_a_disk_everything_is_in_one_place(tmp_path: Path) -> None:
    with storage.opened(tmp_path / "run") as folder:
        assert folder.path == folder.files == tmp_path / "run"
        folder.send()


def test_stores_that_are_not_known_or_cannot_be_read_are_told() -> None:
    unknown = "hdfs://host/run is in no object store that is known; use gs://"
    with pytest.raises(UserError, match=unknown), storage.opened("hdfs://host/run"):
        pass
    if importlib.util.find_spec("s3fs") is None:
        remedy = r"s3://bucket/run: .*; install .*: pip install gcsfs \(gs://\) or s3fs \(s3://\)"
        with pytest.raises(UserError, match=remedy), storage.opened("s3://bucket/run"):
            pass


def test_what_the_first_process_wrote_is_shared_with_the_others(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_as_the_first(_: str) -> None:
        (store / "run").mkdir()
        (store / "run" / "metrics.jsonl").write_text("one\n")

    monkeypatch.setattr(hosts, "is_first", lambda: False)
    monkeypatch.setattr(hosts, "wait_for_all", write_as_the_first)
    with storage.opened(store / "run") as folder:
        folder.share("here")
        assert (folder.files / "metrics.jsonl").read_text() == "one\n"

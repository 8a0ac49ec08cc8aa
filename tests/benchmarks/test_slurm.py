"""What is left of a Slurm of one's own; with daemons that do nothing."""

from __future__ import annotations

import subprocess
import types
from pathlib import Path

import pytest

from benchmarks import slurm


def never(timeout: float) -> None:
    raise subprocess.TimeoutExpired("slurmd", timeout)


def test_the_names_of_hosts_are_as_before_even_if_a_daemon_does_not_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr(slurm, "HOSTS", hosts)
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    daemon = types.SimpleNamespace(terminate=lambda: None, wait=never)
    monkeypatch.setattr(slurm.subprocess, "Popen", lambda *_, **__: daemon)
    with pytest.raises(subprocess.TimeoutExpired), slurm.slurm(tmp_path):
        assert slurm.NODES[0] in hosts.read_text()
    assert hosts.read_text() == "127.0.0.1 localhost\n"

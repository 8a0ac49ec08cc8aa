"""Signals: the first asks, the second acts, and the handlers are given back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import jax
import pytest

from bertjax import hosts
from bertjax.training.signals import StopRequest


def test_sigterm_is_noted_and_leaves_with_143() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.requested
        stop.leave_if_requested()
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit) as left:
        stop.leave_if_requested()
    assert left.value.code == 143


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Python's own handler: a shell starts its background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_sigint_interrupts_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.leave_if_requested()


def test_in_another_thread_it_does_nothing() -> None:
    entered = []

    def enter() -> None:
        with StopRequest() as stop:
            entered.append(stop.requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [False]


def test_all_processes_leave_if_one_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "largest", lambda asked: asked or signal.SIGTERM)  # the other was
    with pytest.raises(SystemExit), StopRequest() as stop:
        stop.leave_if_requested()

"""Leaving in order: SIGINT and SIGTERM ask the loop to stop after the step it is in."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType

import jax

from bertjax import hosts


class StopRequest:
    """While entered, remembers the first SIGINT or SIGTERM in `signum`; a second one acts as it did before.

    Enter it after jax.distributed has started, which installs a SIGTERM handler of its own. Does nothing outside the
    main thread, where Python allows no handlers.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._asked: jax.Array | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum is not None

    def agreed(self) -> bool:
        """Whether any process was asked to leave: the same answer in all, which ask once a step. Needs a mesh.

        With several processes it is the answer of the step before, so that none waits for the others here.
        """
        if jax.process_count() == 1:
            return self.requested
        asked, self._asked = self._asked, hosts.largest(self.signum or 0)
        if asked is None or not int(asked):
            return False
        self.signum = int(asked)
        return True

    def leave_if_requested(self) -> None:
        """Raises KeyboardInterrupt after SIGINT, SystemExit with 128 + 15 after SIGTERM: in all processes or in none.

        Needs a mesh, and waits for all of them.
        """
        if jax.process_count() > 1:
            self.signum = int(hosts.largest(self.signum or 0)) or None
        if self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signum is not None:
            sys.exit(128 + self.signum)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.signum = signum
        self._restore()
        print(f"\n{signal.Signals(signum).name}: saving, then leaving; once more to leave at once", file=sys.stderr)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._before = {}

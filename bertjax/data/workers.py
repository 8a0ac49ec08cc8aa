"""A function over a stream of items, in several processes, with results in the order of the items."""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from bertjax.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yields `function(item)` for each item; with one worker in this process.

    At most `workers` + 2 items are held, so that the memory does not grow with their number.

    Raises: what `function` raises; UserError if a worker dies.
    """
    if workers == 1:
        yield from map(function, items)
        return
    # spawn: fork would copy the threads' locks of whatever runs in this process.
    spawn = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, spawn, _start_worker, (function,))
    pool.submit(int)  # starts the processes, which import what they need while the first items are made
    pending: collections.deque[concurrent.futures.Future[Result]] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) == workers + 2:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(f"one of {workers} workers was killed, most likely for memory; use fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(function: Callable[[Item], Result]) -> None:  # noqa: ARG001 - to bring it is to import its module
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process a core is enough
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent answers it
    leave_with_parent()


def leave_with_parent() -> None:
    """Ends this process as soon as its parent is gone; a pool's worker would wait for its next item for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()

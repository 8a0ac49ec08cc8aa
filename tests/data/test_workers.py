import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bertjax.data.workers import map_in_order
from bertjax.errors import UserError


def late_square(number: int) -> int:
    time.sleep(0.02 * (number % 3))
    return number * number


def refuse(number: int) -> int:
    raise UserError(f"{number} is refused; use another")


def die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_in_order(late_square, range(10), workers)) == [number * number for number in range(10)]


def test_only_a_few_items_are_held() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = map_in_order(abs, items(), 2)
    next(results)
    assert taken == 4
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_is_raised_here(workers: int) -> None:
    with pytest.raises(UserError, match="0 is refused; use another"):
        list(map_in_order(refuse, range(3), workers))


def test_a_worker_that_is_killed_is_said() -> None:
    with pytest.raises(UserError, match="one of 2 workers was killed"):
        list(map_in_order(die, range(3), 2))


def note_and_wait(directory: str, number: int) -> None:
    Path(directory, str(os.getpid())).touch()
    time.sleep(number)


def wait_until(holds: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Returns whether the process is there and no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_leave_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    (tmp_path / "pids").mkdir()
    script.write_text(
        "import functools\nfrom bertjax.data.workers import map_in_order\n"
        "from tests.data.test_workers import note_and_wait\n"
        "if __name__ == '__main__':\n"
        f"    list(map_in_order(functools.partial(note_and_wait, {str(tmp_path / 'pids')!r}), [60, 60, 60], 2))\n"
    )
    with subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.getcwd()}) as parent:
        wait_until(lambda: len(os.listdir(tmp_path / "pids")) == 2)
        parent.kill()
    workers = [int(name) for name in os.listdir(tmp_path / "pids")]
    wait_until(lambda: not any(is_running(worker) for worker in workers))

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from benchmarks import memory


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is not told its own")
def test_a_process_does_not_count_what_started_it_had() -> None:
    array = np.ones(2**25)
    assert memory.peak_bytes() > array.nbytes
    command = [sys.executable, "-c", "from benchmarks import memory; print(memory.peak_bytes())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 1e6 < int(done.stdout) < array.nbytes

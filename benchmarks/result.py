"""What a benchmark prints: one JSON line on standard output, with what it ran on."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import bertjax


def print_result(benchmark: str, figures: Mapping[str, Any], *packages: str) -> None:
    """Prints the benchmark's name, its figures, and the versions of Python, of bertjax and of these packages."""
    versions = {"python": platform.python_version(), "bertjax": bertjax.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"benchmark": benchmark, **figures, "versions": versions}))

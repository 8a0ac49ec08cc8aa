"""What the config's classes are made of: fields that may change, and checks, which raise ValueError with the value."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

T = TypeVar("T")


def free(default: T) -> T:
    """Returns a dataclass field that may differ when a run is resumed: it does not change the curve."""
    field: Any = dataclasses.field(default=default, metadata={"free": True})
    return field


def check(holds: bool, message: str) -> None:
    """Raises ValueError with the message unless it holds."""
    if not holds:
        raise ValueError(message)


def check_share(**shares: float) -> None:
    """Raises ValueError if one of the values is not between 0 and 1, and names it."""
    for name, value in shares.items():
        check(0.0 <= value <= 1.0, f"{name}={value} is not between 0 and 1")


def check_positive(**values: float) -> None:
    """Raises ValueError if one of the values is not greater than 0, and names it."""
    for name, value in values.items():
        check(math.isfinite(value) and value > 0, f"{name}={value} is not greater than 0")


def check_not_negative(**values: float) -> None:
    """Raises ValueError if one of the values is below 0, and names it."""
    for name, value in values.items():
        check(math.isfinite(value) and value >= 0, f"{name}={value} is negative or not finite")

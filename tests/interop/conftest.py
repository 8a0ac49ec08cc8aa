from __future__ import annotations

from tests.model.conftest import one_device

__all__ = ["one_device"]

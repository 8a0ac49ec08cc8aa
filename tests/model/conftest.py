from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from tests.model import tiny


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    """Tests here run on a mesh of one device, unless they set another."""
    with jax.set_mesh(tiny.one_device()):
        yield

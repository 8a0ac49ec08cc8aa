from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

from bertjax.config import MeshConfig
from bertjax.sharding import make_mesh


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    """Tests here run on a mesh of one device, unless they set another."""
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        yield

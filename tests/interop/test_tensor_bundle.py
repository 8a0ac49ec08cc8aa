from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from bertjax.interop.tensor_bundle import read_entries, read_tensor
from tests.golden import bert
from tests.interop import bundles


def test_tensorflows_own_checkpoint_is_read() -> None:
    index = bert.PATH.parent / "google" / "bert_model.ckpt.index"
    entries, shards = read_entries(index)
    assert shards == 1
    assert read_tensor(index, "global_step", entries["global_step"], shards) == 7
    name = "bert/encoder/layer_1/intermediate/dense/kernel"
    assert read_tensor(index, name, entries[name], shards).shape == (24, 40)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, np.float16, ml_dtypes.bfloat16])
def test_every_type_and_shape_comes_back(dtype: type[np.generic], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wanted = {f"x{i}": rng.normal(0, 9, shape).astype(dtype) for i, shape in enumerate([(), (3,), (2, 200, 1), (0, 2)])}
    bundles.write(tmp_path / "m.ckpt", wanted)
    entries, shards = read_entries(tmp_path / "m.ckpt.index")
    assert entries.keys() == wanted.keys()
    for name, entry in entries.items():
        found = read_tensor(tmp_path / "m.ckpt.index", name, entry, shards)
        np.testing.assert_array_equal(found, wanted[name])
        assert found.dtype == wanted[name].dtype

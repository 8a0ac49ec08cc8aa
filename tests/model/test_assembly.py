from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flax import nnx

from bertjax.config import ModelConfig
from bertjax.model.assembly import Assembly, Blueprint, Task, classifier_heads

CONFIG = ModelConfig(vocab_size=64, width=64, layers=1, heads=2, mlp_width=64, max_positions=16)
MODERN = dataclasses.replace(CONFIG, family="modernbert")


@pytest.mark.parametrize("task", ["classification", "tagging"])
def test_classifiers_begin_as_wide_as_their_family_has_them(task: Task) -> None:
    def kernel_DC(c: ModelConfig) -> np.ndarray:
        labels = tuple(str(i) for i in range(200))
        blueprint = Blueprint(c, classifier_heads(c, task), task, labels)
        return np.asarray(Assembly(blueprint, rngs=nnx.Rngs(3)).classifier.kernel[...])

    # Cut at two deviations a normal distribution keeps 0.880 of its width, at three 0.987.
    assert np.std(kernel_DC(CONFIG)) == pytest.approx(0.880 * 0.02, rel=0.03)
    modern_DC = kernel_DC(MODERN)
    assert np.std(modern_DC) == pytest.approx(0.987 * 64**-0.5, rel=0.03)
    assert 2.5 * 64**-0.5 < np.abs(modern_DC).max() <= 3 * 64**-0.5

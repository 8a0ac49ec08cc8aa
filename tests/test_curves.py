from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from bertjax.curves import INK, MAX_POINTS, Points, draw, points, smooth

NONE = points([], "loss")


def curve(n: int) -> Points:
    return Points(np.arange(1.0, n + 1), np.linspace(0.9, 0.1, n))


def test_points_are_those_of_the_lines_that_have_a_finite_value() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "eval_loss": 9.0},
        {"step": 3, "loss": 0.0},
        {"step": 4, "loss": float("nan")},
        {"step": 5, "loss": None},
    ]
    steps, values = points(lines, "loss")
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [3, 0])


def test_smoothing_takes_the_mean_of_the_neighbours_there_are() -> None:
    values = np.arange(100.0) ** 2
    smoothed = smooth(values)
    np.testing.assert_allclose(smoothed[0], values[:3].mean())
    np.testing.assert_allclose(smoothed[50], values[48:53].mean())
    np.testing.assert_allclose(smoothed[99], values[97:].mean())


def test_smoothing_leaves_few_values_as_they_are() -> None:
    np.testing.assert_allclose(smooth(np.array([5.0, 1.0, 3.0])), [5, 1, 3])


def test_drawing_is_xml_with_its_texts_and_takes_the_colour_of_the_page() -> None:
    drawn = draw(curve(30), curve(3), {"unigram": 0.5}, share=True, noisy=True)
    texts = {element.text for element in ET.fromstring(drawn).iter() if element.tag.endswith("text")}
    assert {"training", "held out", "unigram", "step"} <= texts
    assert any(text and text.endswith("%") for text in texts)
    assert "currentColor" in drawn
    assert INK not in drawn


def test_a_curve_of_one_step_and_nothing_beside_it_is_drawn() -> None:
    assert ET.fromstring(draw(curve(1), NONE, {}, share=False, noisy=True)).tag.endswith("svg")


def test_the_same_curve_gives_the_same_bytes() -> None:
    first, second = (draw(curve(30), NONE, {}, share=False, noisy=False) for _ in range(2))
    assert first == second


def test_a_long_run_is_drawn_with_few_points() -> None:
    long = curve(200_000)
    small, large = (len(draw(c, NONE, {}, share=False, noisy=True)) for c in (curve(MAX_POINTS), long))
    assert large < 2 * small

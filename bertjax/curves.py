"""Curves as SVG that takes its text colour and its font from the page it stands in."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # matplotlib takes a second to import, and only a report needs it
    from matplotlib.axes import Axes

# Readable on white and on black. INK stands for the text colour of the page and is replaced by it.
TRAIN, HELD_OUT, BASELINES, INK = "#3d85d1", "#e0762f", ("#8a8f98", "#a0729e"), "#010203"
MAX_POINTS = 1000  # of a curve: more cannot be seen, and would make the page heavy


class Points(NamedTuple):
    """The steps and the finite values of one figure."""

    steps: np.ndarray
    values: np.ndarray


def points(lines: Sequence[Mapping[str, Any]], key: str) -> Points:
    """Returns the steps and the finite values that the lines of metrics.jsonl have under one key."""
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None and math.isfinite(line[key])]
    return Points(*np.array(found, np.float64).reshape(-1, 2).T)


def smooth(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each value and its neighbours, a fiftieth of them on either side."""
    half, n = len(values) // 50, len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    return (sums[high] - sums[low]) / (high - low)


def draw(train: Points, held_out: Points, baselines: Mapping[str, float], *, share: bool, noisy: bool) -> str:
    """Returns an SVG of the training curve, the held-out one and the baselines, dashed.

    A `share` is written in per cent; a `noisy` training curve is drawn raw and, over that, smoothed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    # Text stays text, for the page's font; with a salt the same curves give the same bytes.
    rc: Any = {"svg.fonttype": "none", "svg.hashsalt": "bertjax", "font.size": 9.0} | dict.fromkeys(inks, INK)
    buffer = io.StringIO()
    with mpl.rc_context(rc):
        canvas = Figure(figsize=(5.2, 3.0), layout="constrained")  # not pyplot: a notebook's backend stays as it is
        axes = canvas.add_subplot()
        _plot(axes, train, held_out, baselines, noisy)
        _decorate(axes, share)
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")


def _plot(axes: Axes, train: Points, held_out: Points, baselines: Mapping[str, float], noisy: bool) -> None:
    steps, values = train
    keep = np.unique(np.linspace(0, len(steps) - 1, MAX_POINTS).astype(int))
    if noisy:
        axes.plot(steps[keep], values[keep], color=TRAIN, linewidth=0.6, alpha=0.35)
        values = smooth(values)
    axes.plot(steps[keep], values[keep], color=TRAIN, linewidth=1.6, label="training")
    if len(held_out.steps):
        axes.plot(*held_out, color=HELD_OUT, linewidth=1.6, marker="o", markersize=3, label="held out")
    for (title, level), colour in zip(baselines.items(), BASELINES, strict=False):
        axes.axhline(level, color=colour, linewidth=1.3, linestyle="--", label=title)
    if len(held_out.steps) or baselines:
        axes.legend(frameon=False, fontsize=8)


def _decorate(axes: Axes, share: bool) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.12, color=INK)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    elif axes.get_ylim()[1] >= 10_000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))

"""A page on a run: its state, its held-out figures beside the baselines, its curves and its config, in one HTML file.

Nothing in the page is fetched or executed: the curves are SVG, the style is inline, light or dark follows the reader.
"""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertjax.errors import UserError

if TYPE_CHECKING:  # matplotlib takes a second to import, and only a report needs it
    from matplotlib.axes import Axes

Line = dict[str, Any]
Points = tuple[np.ndarray, np.ndarray]  # steps, values


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of a run: `key` in the lines of training, `eval_` + `key` in those of evaluation."""

    title: str
    key: str
    share: bool = False
    """A share of cases, written in per cent."""
    baselines: tuple[tuple[str, str], ...] = ()
    """What it has to beat: the key in the lines of evaluation, and what that baseline does."""
    trials: str = ""
    """The key in the lines of evaluation of how many cases the share is of."""
    noisy: bool = True
    """Drawn with a smoothed curve over the raw one."""


# A run shows those that its lines hold, so pretraining and fine-tuning need no page each.
FIGURES = (
    Figure("Loss", "loss"),
    Figure("Masked-LM loss, nat", "mlm_loss", baselines=(("eval_unigram_mlm_loss", "unigram cross-entropy"),)),
    Figure("Masked-LM perplexity", "mlm_perplexity"),
    Figure(
        "Masked-LM accuracy",
        "mlm_accuracy",
        share=True,
        baselines=(("eval_unigram_mlm_accuracy", "always the most frequent token"),),
    ),
    Figure("Next-sentence loss, nat", "nsp_loss"),
    Figure(
        "Next-sentence accuracy",
        "nsp_accuracy",
        share=True,
        baselines=(("eval_majority_nsp_accuracy", "always the more frequent answer"),),
        trials="eval_nsp_pairs",
    ),
    Figure(
        "Accuracy",
        "accuracy",
        share=True,
        baselines=(
            ("eval_majority_accuracy", "always the most frequent class"),
            ("eval_bag_of_words_accuracy", "bag of words"),
        ),
    ),
    Figure("F1", "f1", share=True),
    Figure("Precision", "precision", share=True),
    Figure("Recall", "recall", share=True),
    Figure("Matthews correlation", "matthews"),
    Figure("Learning rate", "learning_rate", noisy=False),
    Figure("Tokens per second", "tokens_per_second"),
)

# Readable on white and on black. INK stands for the text colour of the page and is replaced by it.
TRAIN, HELD_OUT, BASELINES, INK = "#3d85d1", "#e0762f", ("#8a8f98", "#a0729e"), "#010203"
MAX_POINTS = 1000  # of a curve: more cannot be seen, and would make the page heavy

STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --soft: #667080; --rule: #e3e6ea; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --soft: #98a1ae; --rule: #31363d; --paper: #16191d; }
}
body { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.75rem 0 .75rem; }
.soft { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.75rem 0 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem 1.25rem .45rem 0; border-bottom: 1px solid var(--rule);
  text-align: left; vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); font-size: .85rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1.75rem 2rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: .25rem; }
svg { display: block; width: 100%; height: auto; color: var(--ink); }
svg text { font-family: inherit !important; }
summary { cursor: pointer; }
details td { overflow-wrap: anywhere; font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85rem; }
"""


def write_report(workdir: Path) -> Path:
    """Writes report.html into the workdir of a run, of pretraining or fine-tuning, and returns its path.

    Raises: UserError if the run's files are missing or damaged.
    """
    config, lines = read_config(workdir), read_metrics(workdir)
    tuned = any("eval_accuracy" in line or "accuracy" in line for line in lines)
    name = html.escape(workdir.resolve().name)
    sections = (
        f"<h1>{name}</h1><p class=soft>{'Fine-tuning' if tuned else 'Pretraining'} with bertjax</p>",
        state_section(config, lines),
        figures_section(lines, by="accuracy" if tuned else "loss"),
        curves_section(lines),
        config_section(config),
    )
    meta = '<meta charset=utf-8><meta name=viewport content="width=device-width">'
    head = f"<head>{meta}<title>{name}</title><style>{STYLE}</style></head>"
    path = workdir / "report.html"
    path.write_text(f"<!doctype html><html lang=en>{head}<body>{''.join(sections)}</body></html>\n", encoding="utf-8")
    return path


def read_config(workdir: Path) -> dict[str, Any]:
    """Returns the run's config as nested dicts."""
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"{workdir} holds no config.json; give the workdir of a run")
    config = _object(path.read_bytes())
    if config is None:
        raise UserError(f"{path} is damaged; put a copy of it back, another run with the same settings has one")
    return config


def read_metrics(workdir: Path) -> list[Line]:
    """Returns the lines of metrics.jsonl; a last one still being written is left out.

    Raises: UserError if there is none, naming the line that cannot be read.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{workdir} holds no metrics.jsonl; a run writes it from its first step on")
    whole = path.read_bytes().split(b"\n")[:-1]
    lines = []
    for number, text in enumerate(whole, start=1):
        line = _object(text)
        if line is None or "step" not in line:
            raise UserError(f"{path}:{number} is not a JSON object with a step: {text[:60]!r}; remove that line")
        lines.append(line)
    if not lines:
        raise UserError(f"{path} holds no step yet; try again after the first step of the run")
    return lines


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:  # not JSON, or not UTF-8
        return None
    return value if isinstance(value, dict) else None


def state_section(config: dict[str, Any], lines: list[Line]) -> str:
    """Returns how far the run is, and how fast it went."""
    steps = config.get("train", {}).get("steps")
    step = max(line["step"] for line in lines)
    facts = {"Step": f"{step:,} of {steps:,}" if steps else f"{step:,}"}
    last = {key: value for line in lines for key, value in line.items()}
    if "epoch" in last:
        facts["Epoch"] = f"{last['epoch']:.3g}"
    if "seconds" in last:
        facts["Time"] = duration(last["seconds"])
    if "tokens" in last:
        facts["Tokens"] = f"{last['tokens'] / 1e6:,.1f} M"
    for title, key, form in (("Tokens/s, median", "tokens_per_second", "{:,.0f}"), ("MFU, median", "mfu", "{:.1%}")):
        if values := [line[key] for line in lines if line.get(key) is not None]:
            facts[title] = form.format(statistics.median(values))
    return f"<dl>{''.join(f'<div><dt>{title}</dt><dd>{fact}</dd></div>' for title, fact in facts.items())}</dl>"


def duration(seconds: float) -> str:
    """Returns a time as `2 h 05 min` or `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


def figures_section(lines: list[Line], by: str) -> str:
    """Returns the table of the held-out figures of the last and of the best evaluation, beside the baselines."""
    evaluations = [line for line in lines if f"eval_{by}" in line]
    if not evaluations:
        return "<h2>Held-out figures</h2><p>There is no evaluation yet.</p>"
    sign = 1 if by == "loss" else -1
    best, last = min(evaluations, key=lambda line: sign * line[f"eval_{by}"]), evaluations[-1]
    columns = {f"Last{' and best' if best is last else ''}, step {last['step']:,}": last}
    if best is not last:
        columns[f"Best, step {best['step']:,} ({'lowest' if by == 'loss' else 'highest'} {by})"] = best
    shown = [figure for figure in FIGURES if f"eval_{figure.key}" in last]
    head = "".join(f"<th>{column}</th>" for column in ("Figure", *columns, "Baselines"))
    body = "".join(_row(figure, list(columns.values())) for figure in shown)
    return (
        f"<h2>Held-out figures</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(figure: Figure, evaluations: list[Line]) -> str:
    cells = [_figure(figure, line) for line in evaluations]
    baselines = [
        f"{_number(figure, evaluations[0][key])} <span class=soft>{title}</span>"
        for key, title in figure.baselines
        if key in evaluations[0]
    ]
    cells.append("<br>".join(baselines))
    return f"<tr><th>{figure.title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _figure(figure: Figure, line: Line) -> str:
    share = line[f"eval_{figure.key}"]
    if figure.trials not in line:
        return _number(figure, share)
    low, high = wilson_interval(share, line[figure.trials])
    return f"{share:.1%}<br><span class=soft>95% sure: {low:.1%} to {high:.1%}</span>"


def _number(figure: Figure, value: float) -> str:
    return f"{value:.1%}" if figure.share else f"{value:.3f}"


def wilson_interval(share: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Returns the interval that holds the true share with 95 % confidence, given the one of so many trials.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z**2 / trials)
    return centre - half, centre + half


def curves_section(lines: list[Line]) -> str:
    """Returns the curves of every figure that the training lines hold."""
    return f"<h2>Curves</h2><div class=curves>{''.join(_curves(lines))}</div>"


def _curves(lines: list[Line]) -> Iterator[str]:
    for figure in FIGURES:
        train, held_out = points(lines, figure.key), points(lines, f"eval_{figure.key}")
        baselines = [(title, points(lines, key)[1]) for key, title in figure.baselines]
        if train[0].size:
            levels = [(title, float(values[-1])) for title, values in baselines if values.size]
            yield f"<figure><figcaption>{figure.title}</figcaption>{draw(figure, train, held_out, levels)}</figure>"


def points(lines: list[Line], key: str) -> Points:
    """Returns the steps and the finite values of one key."""
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None and math.isfinite(line[key])]
    steps, values = np.array(found, np.float64).reshape(-1, 2).T
    return steps, values


def smooth(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each value and its neighbours, a fiftieth of them on either side."""
    half, n = len(values) // 50, len(values)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.maximum(np.arange(n) - half, 0), np.minimum(np.arange(n) + half + 1, n)
    return (sums[high] - sums[low]) / (high - low)


def draw(figure: Figure, train: Points, held_out: Points, levels: list[tuple[str, float]]) -> str:
    """Returns an SVG of the training curve, raw and smoothed, the held-out one and the baselines, dashed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    # Text stays text, in the font of the page; the salt keeps the ids of one page's drawings apart.
    rc: Any = {"svg.fonttype": "none", "svg.hashsalt": figure.key, "font.size": 9.0} | dict.fromkeys(inks, INK)
    buffer = io.StringIO()
    with mpl.rc_context(rc):
        canvas = Canvas(figsize=(5.2, 3.0), layout="constrained")  # not pyplot: a notebook's backend stays as it is
        axes = canvas.add_subplot()
        _plot(axes, figure.noisy, train, held_out, levels)
        _decorate(axes, figure)
        canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawn = buffer.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")


def _plot(axes: Axes, noisy: bool, train: Points, held_out: Points, levels: list[tuple[str, float]]) -> None:
    steps, values = train
    keep = np.unique(np.linspace(0, len(steps) - 1, MAX_POINTS).astype(int))
    if noisy:
        axes.plot(steps[keep], values[keep], color=TRAIN, linewidth=0.6, alpha=0.35)
        values = smooth(values)
    axes.plot(steps[keep], values[keep], color=TRAIN, linewidth=1.6, label="training")
    if held_out[0].size:
        axes.plot(*held_out, color=HELD_OUT, linewidth=1.6, marker="o", markersize=3, label="held out")
    for (title, level), colour in zip(levels, BASELINES, strict=False):
        axes.axhline(level, color=colour, linewidth=1.3, linestyle="--", label=title)
    if held_out[0].size or levels:
        axes.legend(frameon=False, fontsize=8)


def _decorate(axes: Axes, figure: Figure) -> None:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.12, color=INK)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if figure.share:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if figure.key == "tokens_per_second":
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))


def config_section(config: dict[str, Any]) -> str:
    """Returns every setting of the run, folded away."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"
        for name, value in flatten(config)
    )
    return f"<h2>Config</h2><details><summary>Every setting</summary><table>{rows}</table></details>"


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each setting with its dotted name."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

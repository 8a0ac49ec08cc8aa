"""A page on a run: its state, its held-out figures beside the baselines, its curves and its config, in one HTML file.

Nothing in the page is fetched or executed: the curves are SVG, the style is inline, light or dark follows the reader.
"""

from __future__ import annotations

import dataclasses
import html
import json
import math
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bertjax import curves, runs
from bertjax.config import Config, FinetuneConfig
from bertjax.errors import UserError
from bertjax.training.metrics import read_metrics

Line = dict[str, Any]
FINAL = "figures.json"
"""Of a fine-tuning that came to its end: the `step` of the best checkpoint, and its `figures` by file."""


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
    Figure("Loss", "loss", baselines=(("eval_mean_score_loss", "always the mean score"),)),
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
    Figure(
        "F1",
        "f1",
        share=True,
        baselines=(
            ("eval_never_answer_f1", "never an answer"),
            ("eval_common_f1", "the labels that most texts have"),
            ("eval_lexicon_f1", "entities of the training file looked up"),
        ),
    ),
    Figure("F1, mean over classes", "f1_macro", share=True),
    Figure("Exact match", "exact", share=True),
    Figure("F1, answerable questions", "answerable_f1", share=True),
    Figure("F1, unanswerable questions", "unanswerable_f1", share=True),
    Figure("Precision", "precision", share=True),
    Figure("Recall", "recall", share=True),
    Figure("Matthews correlation", "matthews"),
    Figure("Pearson correlation", "pearson"),
    Figure("Spearman correlation", "spearman"),
    Figure("Learning rate", "learning_rate", noisy=False),
    Figure("Tokens per second", "tokens_per_second"),
)

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
summary { cursor: pointer; margin: 1.25rem 0 .5rem; }
.code td { overflow-wrap: anywhere; font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85rem; }
"""


def write_report(workdir: Path) -> Path:
    """Writes report.html into the workdir of a run, of pretraining or fine-tuning, and returns its path.

    Raises: UserError if the run's files are missing or damaged, or hold no step yet.
    """
    facts = runs.read_facts(workdir)
    tuned = "task" in facts
    kind: type[Config | FinetuneConfig] = FinetuneConfig if tuned else Config
    c, lines = runs.read_config(workdir, kind), read_metrics(workdir)
    if not lines:
        raise UserError(f"{workdir / 'metrics.jsonl'} holds no step yet; try again after the run's first step")
    name = html.escape(workdir.resolve().name)
    sections = (
        f"<h1>{name}</h1><p class=soft>{'Fine-tuning' if tuned else 'Pretraining'} with bertjax</p>",
        state_section(c, lines),
        figures_section(lines, by=facts["metric"] if tuned else "loss"),
        final_section(workdir / FINAL),
        curves_section(lines),
        config_section(c, kind()),
    )
    meta = '<meta charset=utf-8><meta name=viewport content="width=device-width">'
    head = f"<head>{meta}<title>{name}</title><style>{STYLE}</style></head>"
    path = workdir / "report.html"
    path.write_text(f"<!doctype html><html lang=en>{head}<body>{''.join(sections)}</body></html>\n", encoding="utf-8")
    return path


def state_section(c: Config | FinetuneConfig, lines: list[Line]) -> str:
    """Returns how far the run is, and how fast it went."""
    last = {key: value for line in lines for key, value in line.items()}
    if isinstance(c, Config):
        facts = {"Step": f"{last['step']:,} of {c.train.steps:,}"}
    else:
        facts = {"Step": f"{last['step']:,}", "Epoch": f"{last['epoch']} of {c.train.epochs}"}
    facts["Time"] = duration(last["seconds"])
    if "tokens" in last:
        facts["Tokens"] = f"{last['tokens'] / 1e6:,.1f} M"
    for title, key, form in (("Tokens/s, median", "tokens_per_second", "{:,.0f}"), ("MFU, median", "mfu", "{:.1%}")):
        if values := [line[key] for line in lines if key in line]:
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
    rows = (_row(figure, list(columns.values())) for figure in shown)
    return _table("Held-out figures", ("Figure", *columns, "Baselines"), rows)


def final_section(path: Path) -> str:
    """Returns the table of the best checkpoint's figures on each labelled file, nothing before the end of a run."""
    if not path.is_file():
        return ""
    final = json.loads(path.read_text(encoding="utf-8"))
    files: dict[str, dict[str, float]] = final["figures"]

    def row(figure: Figure) -> str:
        cells = (_number(figure, of[figure.key]) if figure.key in of else "" for of in files.values())
        return f"<tr><th>{figure.title}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"

    shown = [figure for figure in FIGURES if figure.key in files["validation"]]
    return _table(f"Best checkpoint, step {final['step']:,}", ("Figure", *map(html.escape, files)), map(row, shown))


def _table(title: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{column}</th>" for column in columns)
    return (
        f"<h2>{title}</h2><div class=wide><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
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
        train, held_out = curves.points(lines, figure.key), curves.points(lines, f"eval_{figure.key}")
        if not len(train.steps):
            continue
        levels = {title: curves.points(lines, key).values for key, title in figure.baselines}
        baselines = {title: float(values[-1]) for title, values in levels.items() if len(values)}
        drawn = curves.draw(train, held_out, baselines, share=figure.share, noisy=figure.noisy)
        yield f"<figure><figcaption>{figure.title}</figcaption>{drawn}</figure>"


def config_section(c: Any, default: Any) -> str:
    """Returns the settings that are not the defaults, and all of them folded away."""
    usual, rows = (runs.flat(dataclasses.asdict(group)) for group in (default, c))
    changed = "".join(_setting(name, value) for name, value in rows.items() if value != usual.get(name))
    whole = "".join(_setting(name, value) for name, value in rows.items())
    return (
        f"<h2>Settings that are not the defaults</h2><table class=code>{changed}</table>"
        f"<details><summary>All settings</summary><table class=code>{whole}</table></details>"
    )


def _setting(name: str, value: Any) -> str:
    return f"<tr><td>{name}</td><td>{html.escape(json.dumps(value, ensure_ascii=False))}</td></tr>"

from __future__ import annotations

import dataclasses
import html.parser
import json
from pathlib import Path
from typing import Any

import pytest

from bertjax.config import Config, DataConfig, FinetuneConfig, TaskDataConfig, TrainConfig
from bertjax.errors import UserError
from bertjax.report import duration, wilson_interval, write_report

PRETRAINED = [
    {"step": 1, "loss": 9.7, "mlm_loss": 9.0, "mlm_accuracy": 0.0, "nsp_loss": 0.7, "nsp_accuracy": 0.5,
     "learning_rate": 1e-3, "grad_norm": 2.0, "seconds": 9.0, "tokens": 1_200_000, "tokens_per_second": 133.0},
    {"step": 1, "eval_loss": 6.5, "eval_mlm_loss": 5.9, "eval_mlm_accuracy": 0.125, "eval_mlm_perplexity": 365.0,
     "eval_nsp_loss": 0.6, "eval_nsp_accuracy": 0.75, "eval_nsp_pairs": 400, "eval_unigram_mlm_loss": 6.25,
     "eval_unigram_mlm_accuracy": 0.0625, "eval_majority_nsp_accuracy": 0.525, "seconds": 10.0},
    {"step": 2, "loss": 9.2, "mlm_loss": 8.5, "mlm_accuracy": 0.1, "nsp_loss": 0.7, "nsp_accuracy": 0.5,
     "learning_rate": 0.0, "grad_norm": 2.0, "seconds": 75.0, "tokens": 2_400_000, "tokens_per_second": 4001.0},
    {"step": 2, "eval_loss": 6.75, "eval_mlm_loss": 6.15, "eval_mlm_accuracy": 0.1375, "eval_mlm_perplexity": 469.0,
     "eval_nsp_loss": 0.6, "eval_nsp_accuracy": 0.625, "eval_nsp_pairs": 400, "eval_unigram_mlm_loss": 6.25,
     "eval_unigram_mlm_accuracy": 0.0625, "eval_majority_nsp_accuracy": 0.525, "seconds": 76.0},
]  # fmt: skip
TUNED = [
    {"step": 1, "epoch": 1, "loss": 0.7, "accuracy": 0.5, "learning_rate": 1e-4, "seconds": 1.0, "tokens": 300,
     "tokens_per_second": 300.0},
    {"step": 1, "epoch": 1, "eval_loss": 0.5, "eval_accuracy": 0.875, "eval_f1": 0.8, "eval_precision": 0.7,
     "eval_recall": 0.9, "eval_matthews": 0.625, "eval_majority_accuracy": 0.51, "eval_bag_of_words_accuracy": 0.77,
     "seconds": 2.0},
]  # fmt: skip


class Tags(html.parser.HTMLParser):
    """The tags of a page, the attributes that would fetch something, and the tables' text by row."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data


def make_workdir(path: Path, config: Any, lines: list[dict[str, Any]], **facts: Any) -> Path:
    path.mkdir()
    record = {"bertjax": "0", "facts": facts, "config": dataclasses.asdict(config)}
    (path / "config.json").write_text(json.dumps(record))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def pretrained(path: Path, lines: list[dict[str, Any]] = PRETRAINED) -> Path:
    config = Config(data=DataConfig(path="<my> corpus"), train=TrainConfig(steps=20_000))
    return make_workdir(path / "run", config, lines, corpus="abc")


def page_of(workdir: Path) -> str:
    path = write_report(workdir)
    assert path == workdir / "report.html"
    return path.read_text(encoding="utf-8")


def row(page: str, title: str) -> list[str]:
    return next(cells[1:] for cells in Tags(page).rows if cells[0] == title)


def test_pretraining_figures_stand_beside_their_baselines(tmp_path: Path) -> None:
    page = page_of(pretrained(tmp_path))
    assert row(page, "Figure") == ["Last, step 2", "Best, step 1 (lowest loss)", "Baselines"]
    assert row(page, "Loss") == ["6.750", "6.500", ""]
    assert row(page, "Masked-LM loss, nat") == ["6.150", "5.900", "6.250 unigram cross-entropy"]
    assert row(page, "Masked-LM accuracy") == ["13.8%", "12.5%", "6.2% always the most frequent token"]
    last, best, baseline = row(page, "Next-sentence accuracy")
    assert last == "62.5%95% sure: 57.7% to 67.1%"
    assert best == "75.0%95% sure: 70.5% to 79.0%"
    assert baseline == "52.5% always the more frequent answer"


def test_state_says_how_far_and_how_fast(tmp_path: Path) -> None:
    page = page_of(pretrained(tmp_path))
    for fact in ("2 of 20,000", "1 min 16 s", "2.4 M", "2,067"):
        assert f"<dd>{fact}</dd>" in page
    assert "MFU" not in page


def test_mfu_is_shown_where_the_peak_is_known(tmp_path: Path) -> None:
    lines = [line | ({"mfu": 0.4125} if "loss" in line else {}) for line in PRETRAINED]
    assert "<dt>MFU, median</dt><dd>41.2%</dd>" in page_of(pretrained(tmp_path, lines))


def test_fine_tuning_figures_stand_beside_their_baselines(tmp_path: Path) -> None:
    page = page_of(make_workdir(tmp_path / "run", FinetuneConfig(), TUNED, task="classification", metric="accuracy"))
    assert row(page, "Figure")[0] == "Last and best, step 1"
    assert row(page, "Accuracy") == ["87.5%", "51.0% always the most frequent class77.0% bag of words"]
    assert [row(page, title)[0] for title in ("F1", "Precision", "Recall")] == ["80.0%", "70.0%", "90.0%"]
    assert row(page, "Matthews correlation")[0] == "0.625"
    assert "<dd>1 of 3</dd>" in page  # epochs


def test_the_best_checkpoints_figures_are_shown_for_each_file(tmp_path: Path) -> None:
    workdir = make_workdir(tmp_path / "run", FinetuneConfig(), TUNED, task="classification", metric="accuracy")
    assert "Best checkpoint" not in page_of(workdir)
    figures = {"dev": {"loss": 0.5, "accuracy": 0.75, "f1_macro": 0.1}, "<b>": {"loss": 0.25, "accuracy": 0.625}}
    figures["validation"] = figures.pop("dev") | {"matthews": 0.5}
    (workdir / "figures.json").write_text(json.dumps({"step": 1200, "figures": dict(sorted(figures.items())[::-1])}))
    page = page_of(workdir)
    assert "<h2>Best checkpoint, step 1,200</h2>" in page
    final = page.split("Best checkpoint")[1]
    assert row(final, "Figure") == ["validation", "<b>"]
    assert row(final, "Accuracy") == ["75.0%", "62.5%"]
    assert row(final, "Matthews correlation") == ["0.500", ""]


def test_every_figure_that_is_trained_on_has_a_curve(tmp_path: Path) -> None:
    page = page_of(pretrained(tmp_path))
    titles = ["Loss", "Masked-LM loss, nat", "Masked-LM accuracy", "Next-sentence loss, nat"]
    titles += ["Next-sentence accuracy", "Learning rate", "Tokens per second"]
    assert [part.split("<")[0] for part in page.split("<figcaption>")[1:]] == titles
    assert page.count("<svg") == len(titles)


def test_without_next_sentences_there_is_nothing_about_them(tmp_path: Path) -> None:
    lines = [{key: value for key, value in line.items() if "nsp" not in key} for line in PRETRAINED]
    assert "Next-sentence" not in page_of(pretrained(tmp_path, lines))


def test_before_the_first_evaluation_the_page_says_so(tmp_path: Path) -> None:
    assert "There is no evaluation yet" in page_of(pretrained(tmp_path, PRETRAINED[:1]))


def test_page_fetches_and_runs_nothing(tmp_path: Path) -> None:
    tags = Tags(page_of(pretrained(tmp_path)))
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.tags)
    assert all(target.startswith("#") for target in tags.fetched)


def test_settings_that_differ_are_shown_and_escaped(tmp_path: Path) -> None:
    page = page_of(pretrained(tmp_path))
    changed = page.split("<details>")[0]
    assert row(changed, "data.path") == ['"<my> corpus"']
    assert "<my>" not in page
    assert "optimizer.peak_lr" not in changed
    assert row(page, "optimizer.peak_lr") == ["0.0001"]


def test_settings_of_a_task_are_compared_with_those_of_tasks(tmp_path: Path) -> None:
    config = FinetuneConfig(data=TaskDataConfig(train="train.tsv"))
    changed = page_of(make_workdir(tmp_path / "run", config, TUNED, task="classification", metric="accuracy")).split(
        "<details>"
    )[0]
    assert row(changed, "data.train") == ['"train.tsv"']
    assert "optimizer." not in changed


@pytest.mark.parametrize(
    ("lost", "message"),
    [("config.json", r"config\.json does not exist"), ("metrics.jsonl", r"metrics\.jsonl does not")],
)
def test_missing_file_is_named(tmp_path: Path, lost: str, message: str) -> None:
    workdir = pretrained(tmp_path)
    (workdir / lost).unlink()
    with pytest.raises(UserError, match=message):
        write_report(workdir)


def test_run_without_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no step yet; try again after the run's first step"):
        write_report(pretrained(tmp_path, []))


def test_wilson_interval_agrees_with_worked_examples() -> None:
    """By hand for 8 of 10: (0.8 + z²/20 ± z √(0.16/10 + z²/400)) / (1 + z²/10) with z = 1.96."""
    assert wilson_interval(0.8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0.0, 10)[0] == pytest.approx(0.0, abs=1e-12)
    assert wilson_interval(1.0, 10)[1] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "0 min 03 s"), (59.6, "1 min 00 s"), (3599.0, "59 min 59 s"), (7500.0, "2 h 05 min")]
)
def test_duration_is_written_for_reading(seconds: float, text: str) -> None:
    assert duration(seconds) == text

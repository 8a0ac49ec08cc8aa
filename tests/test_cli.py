"""The bertjax command: prepare, predict, import, report, and their mistakes."""

from __future__ import annotations

import io
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import bertjax
from bertjax import cli
from bertjax.data.corpus import open_corpus
from tests.interop import folders


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Runs the command; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["bertjax", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n\n".join(f"The {i}th boat leaves.\nIt carries {i} lamps to the far shore." for i in range(40))
    (tmp_path / "boats.txt").write_text(text)
    options = ["--output", str(tmp_path / "out"), "--vocab-size", "120", "--seq-len", "32", "--no-nsp"]
    assert call(monkeypatch, "prepare", str(tmp_path / "boats.txt"), *options) == 0
    said = json.loads(capsys.readouterr().out)
    corpus = open_corpus(tmp_path / "out")
    assert said["rows"] == {"train": len(corpus.train), "validation": len(corpus.validation)}
    assert not corpus.next_sentence

    assert call(monkeypatch, "prepare", "--inspect", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "WARNING: only 40 documents" in shown
    shard = tmp_path / "out" / corpus.manifest["splits"]["train"]["shards"][0]["name"]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert call(monkeypatch, "prepare", "--inspect", str(tmp_path / "out")) == 1
    assert capsys.readouterr() == ("", f"error: {shard} is not what was written; prepare the corpus again\n")


def test_predict_fill_mask_and_embed(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "the old [MASK] follows the bridge."
    assert call(monkeypatch, "predict", "fill-mask", text, "--model", str(finished), "--top-k", "3") == 0
    (line,) = capsys.readouterr().out.splitlines()
    model = bertjax.load(finished)
    expected = [candidate["token"] for candidate in model.fill_mask(text, top_k=3)[0]]
    assert [candidate["token"] for candidate in json.loads(line)["masks"][0]] == expected

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the old river\nthe miller leaves\n")))
    assert call(monkeypatch, "predict", "embed", "--model", str(finished)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["the old river", "the miller leaves"]
    np.testing.assert_allclose(lines[0]["embedding"], model.embed("the old river")[0], atol=1e-5)


def test_a_tab_parts_a_pair() -> None:
    assert cli._pairs(["a film", "a film\tgood"]) == ["a film", ("a film", "good")]


def test_a_long_question_is_cut_if_asked_to() -> None:
    for truncate in (False, True):
        model = types.SimpleNamespace(answer_all=lambda pairs, truncate: [{"pairs": pairs, "cut": truncate}])
        asked = cli.Predict("answer", model="a run", truncate=truncate)
        (answer,) = asked._answers(model, ["who?\tthe miller"])
        assert answer == {"pairs": [("who?", "the miller")], "cut": truncate}


def test_a_file_that_is_not_utf8_is_said_with_its_place(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 [MASK]\n")
    file = str(tmp_path / "latin.txt")
    assert call(monkeypatch, "predict", "fill-mask", "--model", str(finished), "--file", file) == 1
    assert "latin.txt:1: byte 0xe9 at offset 3 is not UTF-8 text" in capsys.readouterr().err


def test_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors("cls.seq", "bert.pooler"), "BertForMaskedLM")
    assert call(monkeypatch, "import", str(folder), str(tmp_path / "ours")) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["heads"], said["vocabulary"]) == (["masked_lm"], folders.TOKENIZER.vocab_size)
    text = "the [MASK] rises"
    assert bertjax.load(tmp_path / "ours").fill_mask(text) == bertjax.load(folder).fill_mask(text)
    assert call(monkeypatch, "import", str(folder), str(tmp_path / "ours")) == 1
    assert "is there already; name a new folder" in capsys.readouterr().err


def test_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders.write(tmp_path / "hf", folders.golden_tensors(), "BertForPreTraining")
    arguments = [str(folder), str(tmp_path / "out"), "--architecture", "BertForMaskedLM"]
    assert call(monkeypatch, "export", *arguments) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "BertForMaskedLM"
    assert call(monkeypatch, "export", *arguments) == 1
    assert "is there already" in capsys.readouterr().err


def test_report(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "report.html").unlink()
    assert call(monkeypatch, "report", str(finished)) == 0
    assert capsys.readouterr().out.strip() == str(finished / "report.html")
    assert (finished / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "fill-mask", "x", "--model", "nowhere"], 1, "error: nowhere/config.json does not exist"),
        (["report", "nowhere"], 1, "error: "),
        (["prepare", "nowhere.txt", "--output", "out"], 1, "error: "),
        (["prepare", "--output"], 2, ""),
        (["prepare", "a.txt"], 2, "--output"),
        (["prepare", "--inspect", "nowhere"], 1, "error: nowhere holds no prepared corpus"),
        (["prepare", "a.txt", "--inspect", "nowhere"], 2, "only looks"),
        (["predict", "fill-msk", "x", "--model", "m"], 2, "fill-mask"),
        (["predict", "tag", "x", "--model", "m", "--truncate"], 2, "--truncate goes with classify, score"),
        (["predict", "fill-mask", "x", "--model", "m", "--truncate"], 2, "--truncate goes with classify, score"),
        (["predict", "embed", "x", "--model", "m", "--top-k", "3"], 2, "--top-k goes with fill-mask, not with embed"),
        (["predict", "choose", "x", "--model", "m", "--pooling", "cls"], 2, "--pooling goes with embed, not with"),
        (["predict", "score", "x", "--model", "m", "--normalize"], 2, "--normalize goes with embed, not with score"),
        (["prepaer"], 2, "prepare"),
    ],
)
def test_mistakes(
    arguments: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == code
    assert message in capsys.readouterr().err

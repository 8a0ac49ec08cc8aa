"""The command line: values over a file's values, and exit code 2 with a message for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjax import command_line
from bertjax.config import Config

FILE = "from bertjax.config import *\n\ndef get_config():\n    return Config(optimizer=OptimizerConfig({}))\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "c.py").write_text(FILE.format("peak_lr=0.5, warmup_steps=3"))
    return str(tmp_path / "c.py")


def test_what_a_group_alone_cannot_check_ends_with_a_message(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.arguments_of(Config, "", ["--data.seq-len=1024"])
    assert ended.value.code == 2
    assert "data.seq_len=1024 is more than model.max_positions=512" in capsys.readouterr().err


def test_the_command_line_is_over_the_file_is_over_the_defaults(file: str) -> None:
    c, workdir = command_line.parse(
        Config,
        "",
        [
            f"--config={file}",
            "--workdir=w",
            "--optimizer.peak_lr=0.25",
            "--checkpoint.keep_every=None",
            "--optimizer.bias_correction=False",
        ],
    )
    assert (c.optimizer.peak_lr, c.optimizer.warmup_steps, c.train.seed, workdir) == (0.25, 3, 0, "w")
    assert c.checkpoint.keep_every is None
    assert c.optimizer.bias_correction is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer.peak_rl=1"], "--optimizer.peak-lr"),
        (["--train.steps=many"], "invalid literal for int"),
        (["--train.precision=float8"], "bfloat16"),
        (["--model.heads=7"], "heads=7 do not divide width=768; use heads=6"),
        (["--optimizer.warmup_steps=2000000"], "leaves nothing of train.steps"),
        (["--data.seq_len=1024"], "more than model.max_positions=512"),
    ],
)
def test_a_mistake_is_a_message_and_exit_code_2(
    file: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Config, "", [f"--config={file}", "--workdir=w", *arguments])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split()).replace("_", "_")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.format("peak_rl=1"), "unexpected keyword argument 'peak_rl'"),
        (FILE.format("b1=2"), "b1=2 is not between 0 and 1"),
        ("x = 1\n", "has no function get_config"),
        ("def get_config():\n    return 3\n", "returned a int, not a Config"),
    ],
)
def test_a_wrong_file_is_a_message_and_exit_code_2(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Config, "", [f"--config={tmp_path / 'c.py'}", "--workdir=w"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_names_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Config, "", ["--config=configs/quickstrat.py", "--workdir=w"])
    assert stop.value.code == 2
    assert "configs/quickstart.py" in capsys.readouterr().err


def test_without_a_workdir_or_a_config_it_is_a_mistake(file: str) -> None:
    for arguments in ([f"--config={file}"], ["--workdir=w"]):
        with pytest.raises(SystemExit) as stop:
            command_line.parse(Config, "", arguments)
        assert stop.value.code == 2


def test_help_shows_the_files_values(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command_line.parse(Config, "Pretrains.", [f"--config={file}", "--help"])
    assert stop.value.code == 0
    assert "0.5" in capsys.readouterr().out

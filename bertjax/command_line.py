"""`--config=FILE --workdir=DIR [--group.field=value ...]`: a config file, then the command line over it."""

from __future__ import annotations

import argparse
import dataclasses
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

C = TypeVar("C")


def parse(kind: type[C], description: str, argv: list[str] | None = None) -> tuple[C, str]:
    """Returns the config and the workdir that the command line asks for.

    The file named by --config is Python whose `get_config()` returns a `kind`; its values are the defaults, and --help
    shows them. A mistake ends the process with exit code 2 and a message.
    """
    argv = sys.argv[1:] if argv is None else argv
    path, default = config_file(kind, argv)

    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("config", Annotated[Any, tyro.conf.arg(name="", constructor=kind)], dataclasses.field(default=default)),
            (
                "workdir",
                Annotated[str, tyro.conf.arg(help="Folder of the run: made, or resumed.")],
                dataclasses.field(default=tyro.MISSING),
            ),
            (
                "file",
                Annotated[
                    str, tyro.conf.arg(name="config", help="Python file whose get_config() makes the defaults below.")
                ],
                dataclasses.field(default=tyro.MISSING if path is None else path),
            ),
        ],
        frozen=True,
    )
    parsed: Any = arguments_of(arguments, description, argv)
    return parsed.config, parsed.workdir


def arguments_of(kind: type[C], description: str, argv: Sequence[str] | None = None) -> C:
    """Returns what the command line asks for. A mistake ends the process with exit code 2 and a message."""
    try:
        return tyro.cli(kind, description=description, args=argv, config=(tyro.conf.FlagConversionOff,))
    except ValueError as error:  # what no field can check by itself
        _refuse(str(error))


def config_file(kind: type[C], argv: Sequence[str]) -> tuple[str | None, C]:
    """Returns what --config names, and the config that is made there; without it None, and the defaults."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    path = finder.parse_known_args(argv)[0].config
    return path, kind() if path is None else _load(path, kind)


def _load(path: str, kind: type[C]) -> C:
    """Returns what the file's get_config() returns, or ends with exit code 2."""
    if not Path(path).is_file():
        _refuse(f"--config={path} does not exist; configs/ has {_config_files()}")
    try:
        namespace = runpy.run_path(path)
        if "get_config" not in namespace:
            _refuse(f"--config={path} has no function get_config()")
        config = namespace["get_config"]()
    except (ValueError, TypeError) as error:  # a value that the config refuses, a field that it lacks
        _refuse(f"--config={path}: {error}")
    if not isinstance(config, kind):
        _refuse(f"--config={path}: get_config() returned a {type(config).__name__}, not a {kind.__name__}")
    return config


def _config_files() -> str:
    return ", ".join(sorted(str(p) for p in Path("configs").rglob("*.py"))) or "none here"


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)

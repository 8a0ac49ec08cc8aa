"""Runs google-research/bert's create_pretraining_data.py as it stands, without TensorFlow.

    python -m benchmarks.google_script SCRIPT --input_file=... --output_file=... --vocab_file=... [its other flags]

The script uses TensorFlow 1 for flags, files, logging and records only. What stands in for it here does the same with
Abseil and the standard library, and serialises a record by `marshal`, which takes less time than a protocol buffer:
a measured time flatters the script.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import importlib
import marshal
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from absl import flags


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A list of numbers, as the script makes and reads it."""

    value: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Feature:
    """A value of a record: whole numbers or others."""

    int64_list: Numbers = Numbers()
    float_list: Numbers = Numbers()


@dataclasses.dataclass(frozen=True)
class Features:
    """The values of a record by their names."""

    feature: dict[str, Feature]


@dataclasses.dataclass(frozen=True)
class Example:
    """A record."""

    features: Features

    def SerializeToString(self) -> bytes:
        """Returns what a writer writes; protocol buffers spell it so."""
        return marshal.dumps({k: v.int64_list.value or v.float_list.value for k, v in self.features.feature.items()})


def stand_in() -> ModuleType:
    """Returns a module `tensorflow` with what the script uses of it."""

    def silent(*_: object) -> None:
        pass

    module: Any = ModuleType("tensorflow")
    module.flags = flags
    module.logging = SimpleNamespace(info=silent, set_verbosity=silent, INFO=0)
    module.gfile = SimpleNamespace(GFile=open, Glob=glob.glob)
    module.python_io = SimpleNamespace(TFRecordWriter=functools.partial(open, mode="wb"))
    module.train = SimpleNamespace(
        Example=Example, Features=Features, Feature=Feature, Int64List=Numbers, FloatList=Numbers
    )
    return module


def main() -> None:
    """The command."""
    script = Path(sys.argv[1])
    sys.modules["tensorflow"] = stand_in()
    sys.path.insert(0, str(script.parent))
    program = importlib.import_module(script.stem)
    flags.FLAGS(sys.argv[1:])
    program.main(None)


if __name__ == "__main__":
    main()

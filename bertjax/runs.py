"""A run's folder: its config, its tokenizer, and the rule that a resumed run is the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import socket
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax

from bertjax import __version__, backend, hosts
from bertjax.data.checksums import checksum
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError

C = TypeVar("C")
T = TypeVar("T")
OF_ONE_PROCESS = {"mesh.process", "data.path", "data.cache", "phases.data.path", "phases.data.cache"}
"""Settings in which the processes of a run may differ."""


def open_workdir(workdir: str | Path, config: Any, facts: Mapping[str, Any], tokenizer: Tokenizer) -> Path:
    """Returns the workdir, made on the first call and compared on later ones, as the processes of a run with another.

    `config` is a dataclass of groups, `facts` what else the curve depends on: JSON, or a dataclass of fields.

    Raises: UserError, with the difference, if a field that changes the curve is not what the workdir was made with, or
    one that all processes share is not the same in all.
    """
    workdir = Path(workdir)
    path = workdir / "config.json"
    record: dict[str, Any] = {
        "bertjax": __version__,
        "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "facts": {name: _plain(fact) for name, fact in facts.items()},
        "config": dataclasses.asdict(config),
    }
    own = flat(record["config"]) | record["facts"]
    hosts.check_same({name: value for name, value in own.items() if _field(name) not in OF_ONE_PROCESS})
    before = _read(path) if path.exists() else None
    if before is not None:
        if others := before["config"].keys() - record["config"].keys():
            raise UserError(f"{workdir} holds a run of another kind, which has {sorted(others)}; use a new workdir")
        changed = changes(before["config"], config, path)
        _refuse_other_curve(path, not_free(changed, type(config)) | _changed_facts(before["facts"], facts, path))
        for name, (old, new) in changed.items():
            hosts.say(f"{name} was {old!r}, now {new!r}")
    hosts.wait_for_all("the workdir is read")
    if hosts.is_first():
        if before is None:
            workdir.mkdir(parents=True, exist_ok=True)
            tokenizer.save(workdir / "tokenizer")
            record["tokenizer"] = checksum(_tokenizer_file(workdir))
        elif "tokenizer" in before:
            record["tokenizer"] = before["tokenizer"]
        write_json(path, record)
    hosts.wait_for_all("the workdir is written")
    return workdir


@contextlib.contextmanager
def lock(workdir: str | Path) -> Iterator[None]:
    """Keeps a workdir, made if need be, to one run at a time; the kernel lets go of it however the run ends.

    Raises: UserError if another run holds it. Of several hosts only the first holds it, for all of them.
    """
    path = Path(workdir) / "lock"
    if not hosts.is_first():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"another run, {file.read().strip()}, is writing to {workdir};"
                " wait for it, stop it, or use another workdir"
            ) from error
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", file=file, flush=True)
        yield


def _plain(fact: Any) -> Any:
    return dataclasses.asdict(fact) if dataclasses.is_dataclass(fact) and not isinstance(fact, type) else fact


def read_config(workdir: str | Path, kind: type[C]) -> C:
    """Returns the config that a workdir was made with. Raises: UserError if there is none, or it is of another kind."""
    path = Path(workdir) / "config.json"
    return config_from_dict(kind, _read(path)["config"], str(path))


def read_facts(workdir: str | Path) -> dict[str, Any]:
    """Returns the facts that a workdir was made with."""
    facts: dict[str, Any] = _read(Path(workdir) / "config.json")["facts"]
    return facts


def with_precision(config: C, workdir: str | Path, device: jax.Device) -> C:
    """Returns the config with a precision for "auto": that of the run in the workdir, without one the device's."""
    groups: Any = config
    if groups.train.precision != "auto":
        return config
    begun: Any = read_config(workdir, type(config)) if (Path(workdir) / "config.json").exists() else None
    precision = begun.train.precision if begun else backend.fastest_precision(device)
    return dataclasses.replace(groups, train=dataclasses.replace(groups.train, precision=precision))


def read_record(workdir: str | Path) -> dict[str, Any]:
    """Returns all that config.json holds: config and facts, bertjax's version and the hardware of the last start."""
    return _read(Path(workdir) / "config.json")


def check_tokenizer(workdir: str | Path) -> None:
    """Raises UserError if the workdir's tokenizer is not the one that it was made with, where it says which that is."""
    made_with = read_record(workdir).get("tokenizer")
    if made_with is not None and checksum(_tokenizer_file(workdir)) != made_with:
        raise UserError(
            f"{_tokenizer_file(workdir)} is not the file that the run was made with, and its weights may be of other"
            " ids; put the run's own there"
        )


def _tokenizer_file(workdir: str | Path) -> Path:
    return Path(workdir) / "tokenizer" / "tokenizer.json"


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON; a kill leaves the whole old file or the whole new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def config_from_dict(kind: type[C], values: Mapping[str, Any], source: str) -> C:
    """Returns the dataclass (of dataclasses) that `dataclasses.asdict` made `values` from.

    Raises: UserError on a key that the dataclass lacks, and on values it refuses.
    """
    types = typing.get_type_hints(kind)
    unknown = values.keys() - types.keys()
    if unknown:
        raise UserError(f"{source}: unknown keys {sorted(unknown)}; {kind.__name__} has {sorted(types)}")
    made = {}
    for name, value in values.items():
        nested, several = _groups(types[name])
        if nested is None:
            made[name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        elif several:
            made[name] = tuple(config_from_dict(nested, each, source) for each in value)
        else:
            made[name] = config_from_dict(nested, value, source)
    try:
        return kind(**made)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _groups(kind: Any) -> tuple[type[Any] | None, bool]:
    """Returns the dataclass that a field holds, if it does, and whether it holds a tuple of them."""
    several = typing.get_origin(kind) is tuple
    kind = typing.get_args(kind)[0] if several else kind
    return (kind if dataclasses.is_dataclass(kind) else None), several  # type: ignore[return-value]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        if (path.parent / "sweep.json").is_file():
            raise UserError(
                f"{path.parent} holds a sweep; name a run's folder in it: sweep.tsv there has the figures of each"
            )
        raise UserError(f"{path} does not exist; is {path.parent} the workdir of a run?")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        missing = {"bertjax", "facts", "config"} - record.keys()
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{path} is not the config of a run ({error}); restore it or use a new workdir") from error
    if missing:
        raise UserError(f"{path} is not the config of a run: it lacks {sorted(missing)}")
    return dict(record)


def not_free(changed: Mapping[str, T], kind: type[Any]) -> dict[str, T]:
    """Returns those of the changed settings that may not change when a run is resumed."""
    free = _free_fields(kind)
    return {name: change for name, change in changed.items() if _field(name) not in free}


def _free_fields(kind: type[Any]) -> set[str]:
    """Returns the dotted names of the fields that may change when a run is resumed."""
    names: set[str] = set()
    types = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        nested, _ = _groups(types[field.name])
        if field.metadata.get("free"):
            names.add(field.name)
        elif nested is not None:
            names |= {f"{field.name}.{inner}" for inner in _free_fields(nested)}
    return names


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the settings of all groups by their dotted names."""
    named: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
            value = {str(number): each for number, each in enumerate(value)}
        named |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return named


def _field(name: str) -> str:
    """Returns the name of a setting without the number of its phase."""
    return re.sub(r"\.\d+\.", ".", name)


def changes(before: Mapping[str, Any], config: Any, source: Path) -> dict[str, tuple[Any, Any]]:
    """Returns old and new value of each setting that is another, by its dotted name; `before` is as JSON has it.

    What an older bertjax did not know was as it is by default. Raises: UserError if `before` is of another dataclass.
    """
    old = config_from_dict(type(config), before, str(source))
    return differences(dataclasses.asdict(old), dataclasses.asdict(config))


def _changed_facts(before: Mapping[str, Any], facts: Mapping[str, Any], source: Path) -> dict[str, tuple[Any, Any]]:
    """Returns old and new value of each fact that is another; of a dataclass, of its fields that are not free."""
    changed: dict[str, tuple[Any, Any]] = {}
    for name in sorted(before.keys() | facts.keys()):
        old, new = before.get(name), facts.get(name)
        if dataclasses.is_dataclass(new) and old is not None:
            of_fields = not_free(changes(old, new, source), type(new))
            changed |= {f"{name}.{field}": change for field, change in of_fields.items()}
        else:
            changed |= differences({name: old}, {name: new})
    return changed


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns old and new value of each setting that is another, as JSON has it, by its dotted name."""
    old, new = (flat(json.loads(json.dumps(values))) for values in (before, after))
    names = sorted(old.keys() | new.keys())
    return {name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)}


def _refuse_other_curve(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    if changed:
        shown = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise UserError(
            f"{path.parent} holds a run that this would change: {shown}. Use another workdir, or the old values"
        )

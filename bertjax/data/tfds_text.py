"""Texts and records from TFDS data sets in ArrayRecord form, read without TensorFlow and without their code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.core import read_only_builder

from bertjax.errors import UserError

SPLIT = "train"
FEATURE = "text"


def shards_of(name: str) -> list[Path]:
    """Returns the files of the train split of `name[/config][:version]`. Raises: UserError if it has no such texts."""
    info = _info(name)
    if SPLIT not in info.splits or not isinstance(dict(info.features).get(FEATURE), tfds.features.Text):
        found = f"splits {', '.join(info.splits)} and features {', '.join(info.features)}"
        raise UserError(f"tfds:{name} has {found}; need the split {SPLIT!r} and the text feature {FEATURE!r}")
    return [Path(path) for path in info.splits[SPLIT].filepaths]


def read_records(name: str, split: str) -> Iterator[dict[str, Any]]:
    """Yields the records of a split, texts as strings, classes as their names, None where there is none, lists of them.

    Raises: UserError if there is no such data set or split, or a record is damaged.
    """
    info = _info(name)
    if split not in info.splits:
        raise UserError(f"tfds:{name} has no split {split!r}; write one of {', '.join(info.splits)}: tfds:{name}#SPLIT")
    for path in info.splits[split].filepaths:
        yield from _records(Path(path))


def _info(name: str) -> tfds.core.DatasetInfo:
    """Returns what TFDS's data directory ($TFDS_DATA_DIR) says of `name[/config][:version]`.

    Raises: UserError, with the command that prepares it, if it is not there in ArrayRecord form.
    """
    remedy = f"prepare it where TensorFlow is installed: `tfds build {name} --file_format=array_record`"
    directory = os.environ.get("TFDS_DATA_DIR", tfds.core.constants.DATA_DIR)
    try:
        info = read_only_builder.builder_from_files(name, data_dir=directory).info
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:  # ValueError: no such name can be
        raise UserError(f"tfds:{name} is not in {directory}; {remedy}") from error
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise UserError(f"tfds:{name} is in the form {info.file_format.value}; {remedy}")
    return info


def read_texts(path: Path) -> Iterator[str]:
    """Yields the texts of a shard. Raises: UserError if a record is damaged."""
    for record in _records(path):
        yield record[FEATURE]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a shard, by the features.json beside it."""
    features = tfds.features.FeaturesDict.from_config(str(path.parent))
    reader = ArrayRecordReader(str(path))
    if not reader.ok():  # then it counts no records
        raise UserError(
            f"{path} is missing, or damaged or cut off so that no record can be found; prepare the data set again"
        )
    count, told = reader.num_records(), _told(path)
    if told not in (count, None):
        raise UserError(f"{path} holds {count} records, dataset_info.json says {told}; prepare the data set again")
    for number in range(count):
        try:
            stored = features.deserialize_example_np(reader.read([number])[0])
            record = {key: _plain(value, features[key]) for key, value in stored.items()}
        except (RuntimeError, ValueError) as error:  # ArrayRecord's and protobuf's; not UTF-8 is a ValueError, too
            raise UserError(f"{path}, record {number} is damaged ({error}); prepare the data set again") from error
        yield record


def _told(path: Path) -> int | None:
    """Returns how many records a shard has by the dataset_info.json beside it, None if that says nothing of it."""
    if not (path.parent / "dataset_info.json").is_file():
        return None
    splits = read_only_builder.builder_from_directory(path.parent).info.splits.values()
    lengths = (zip(split.filepaths, split.shard_lengths, strict=False) for split in splits)
    return next((n for shards in lengths for shard, n in shards if shard.name == path.name), None)


def _plain(value: Any, feature: Any) -> Any:
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: _plain(one, feature[key]) for key, one in value.items()}
    if isinstance(feature, tfds.features.Sequence) and isinstance(value, dict):  # TFDS keeps its parts side by side
        return {key: [_plain(one, feature.feature[key]) for one in ones] for key, ones in value.items()}
    if isinstance(feature, tfds.features.Sequence):
        return [_plain(one, feature.feature) for one in value]
    if isinstance(feature, tfds.features.Text):
        return value.decode()
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None  # -1 is TFDS's "not known"
    return value.item() if isinstance(value, np.generic) else value

"""Texts from TFDS data sets in ArrayRecord form, read without TensorFlow and without their code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.core import read_only_builder

from bertjax.errors import UserError

SPLIT = "train"
FEATURE = "text"


def shards_of(name: str) -> list[Path]:
    """Returns the files of the train split of `name[/config][:version]` in TFDS's data directory ($TFDS_DATA_DIR).

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
    if SPLIT not in info.splits or not isinstance(dict(info.features).get(FEATURE), tfds.features.Text):
        found = f"splits {', '.join(info.splits)} and features {', '.join(info.features)}"
        raise UserError(f"tfds:{name} has {found}; need the split {SPLIT!r} and the text feature {FEATURE!r}")
    return [Path(path) for path in info.splits[SPLIT].filepaths]


def is_shard(path: Path) -> bool:
    """Returns whether the file has the name of an ArrayRecord shard."""
    return path.suffix.startswith(".array_record")


def read_texts(path: Path) -> Iterator[str]:
    """Yields the texts of a shard, by the features.json beside it. Raises: UserError if a record is damaged."""
    features = tfds.features.FeaturesDict.from_config(str(path.parent))
    reader = ArrayRecordReader(str(path))
    for number in range(reader.num_records()):
        try:
            record = features.deserialize_example_np(reader.read([number])[0])
            yield record[FEATURE].decode()
        except (RuntimeError, ValueError) as error:  # ArrayRecord's and protobuf's; not UTF-8 is a ValueError, too
            raise UserError(f"{path}, record {number} is damaged ({error}); prepare the data set again") from error

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from bertjax.data.documents import Document, read_documents
from bertjax.data.tfds_text import read_records
from bertjax.errors import UserError

TEXTS = ["Moss grows.\n\n Slowly. ", "雨が降る。", ""]


def write_data_set(directory: Path, *, split: str = "train", **features: Any) -> Path:
    """Writes a data set as `tfds build` lays it out, with a text a record in two shards."""
    features = features or {"text": tfds.features.Text()}
    return write_records(
        directory,
        split,
        features,
        [[dict.fromkeys(features, t) for t in TEXTS[:2]], [dict.fromkeys(features, TEXTS[2])]],
    )


def write_records(directory: Path, split: str, features: dict[str, Any], shards: list[list[dict[str, Any]]]) -> Path:
    """Writes a data set of one split as `tfds build` lays it out."""
    directory.mkdir(parents=True)
    described = tfds.features.FeaturesDict(features)
    for shard, records in enumerate(shards):
        path = directory / f"rain-{split}.array_record-{shard:05d}-of-{len(shards):05d}"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(described.serialize_example(described.encode_example(record)))
        writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name="rain", split=split, filetype_suffix="array_record"
    )
    lengths = [len(records) for records in shards]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=described,
        split_infos=[tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=100, filename_template=template)],
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
    return directory


def test_texts_of_the_train_split_are_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_data_set(tmp_path / "rain" / "plain" / "1.0.0")
    expected = [Document(("Moss grows.", "Slowly.")), Document(("雨が降る。",))]
    for name in ("tfds:rain/plain", "tfds:rain/plain:1.0.0"):
        assert list(read_documents([name])) == expected


def test_a_data_set_that_is_not_there_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"tfds:rain is not in .*`tfds build rain --file_format=array_record`"):
        list(read_documents(["tfds:rain"]))


def test_another_form_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    info = write_data_set(tmp_path / "rain" / "1.0.0") / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"tfds:rain is in the form tfrecord; .*--file_format=array_record"):
        list(read_documents(["tfds:rain"]))


@pytest.mark.parametrize("changes", [{"split": "test"}, {"title": tfds.features.Text()}])
def test_what_it_has_instead_of_texts_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    write_data_set(tmp_path / "rain" / "1.0.0", **changes)
    with pytest.raises(UserError, match=r"tfds:rain has splits \w+ and features \w+; need the split 'train'"):
        list(read_documents(["tfds:rain"]))


def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    shard = write_data_set(tmp_path / "rain" / "1.0.0") / "rain-train.array_record-00000-of-00002"
    content = shard.read_bytes()
    at = content.index(b"Moss")
    shard.write_bytes(content[:at] + b"Mass" + content[at + 4 :])
    with pytest.raises(UserError, match=r"rain-train\S+, record 0 is damaged"):
        list(read_documents(["tfds:rain"]))


def cut_off(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def exchange(shard: Path) -> None:
    shard.write_bytes(shard.with_name("rain-train.array_record-00001-of-00002").read_bytes())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "is missing, or damaged or cut off so that no record can be found; prepare"),
        (cut_off, "is missing, or damaged or cut off so that no record can be found; prepare"),
        (exchange, "holds 1 records, dataset_info.json says 2; prepare"),
    ],
)
def test_a_shard_without_all_its_records_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], message: str
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    shard = write_data_set(tmp_path / "rain" / "1.0.0") / "rain-train.array_record-00000-of-00002"
    damage(shard)
    for read in (lambda: read_documents(["tfds:rain"]), lambda: read_records("rain", "train")):
        with pytest.raises(UserError, match=f"{shard} {message}"):
            list(read())


def test_a_shard_of_which_no_number_is_known_is_read(tmp_path: Path) -> None:
    shard = write_data_set(tmp_path / "rain") / "rain-train.array_record-00000-of-00002"
    (tmp_path / "rain" / "dataset_info.json").unlink()
    assert len(list(read_documents([shard]))) == 2


def test_records_have_texts_names_of_classes_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    features = {
        "sentence": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["dry", "wet"]),
        "score": np.float32,
    }
    rows = [
        {"sentence": t, "label": n, "score": s} for t, n, s in (("Nass.", "wet", 4.5), ("雪", -1, 0), ("", "dry", 1))
    ]
    write_records(tmp_path / "rain" / "1.0.0", "validation", features, [rows[:1], rows[1:]])
    assert list(read_records("rain", "validation")) == [
        {"sentence": "Nass.", "label": "wet", "score": 4.5},
        {"sentence": "雪", "label": None, "score": 0.0},
        {"sentence": "", "label": "dry", "score": 1.0},
    ]
    with pytest.raises(UserError, match=r"tfds:rain has no split 'train'; write one of validation: tfds:rain#SPLIT"):
        list(read_records("rain", "train"))

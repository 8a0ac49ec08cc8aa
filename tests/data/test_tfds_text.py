from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from bertjax.data.documents import Document, read_documents
from bertjax.errors import UserError

TEXTS = ["Moss grows.\n\n Slowly. ", "雨が降る。", ""]


def write_data_set(directory: Path, *, split: str = "train", **features: Any) -> Path:
    """Writes a data set as `tfds build` lays it out, with a text a record in two shards."""
    directory.mkdir(parents=True)
    described = tfds.features.FeaturesDict(features or {"text": tfds.features.Text()})
    for shard, texts in enumerate((TEXTS[:2], TEXTS[2:])):
        path = directory / f"rain-{split}.array_record-{shard:05d}-of-00002"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for text in texts:
            writer.write(described.serialize_example(described.encode_example(dict.fromkeys(described, text))))
        writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name="rain", split=split, filetype_suffix="array_record"
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=described,
        split_infos=[tfds.core.SplitInfo(name=split, shard_lengths=[2, 1], num_bytes=100, filename_template=template)],
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

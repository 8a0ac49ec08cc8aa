from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from bertjax.data.blocks import Block
from bertjax.data.documents import Document, EncodedDocument
from bertjax.data.pairs import Pair
from bertjax.data.shards import Shard, ShardOptions, _serialize, id_dtype, record_features, write_shards
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError

DOCUMENTS = [
    Document(("Owls sleep by day. Bats do too.", "Moths fly at night.")).encoded(),
    Document(("Snow is white. Coal is not. Ash is grey.",)).encoded(),
    Document(("Rye is sown in autumn. Oats in spring.", "Both are cut in summer.")).encoded(),
]


def make_options(directory: Path, **changes: object) -> ShardOptions:
    tokenizer = Tokenizer.train((p.decode() for d in DOCUMENTS for p in d.paragraphs), vocab_size=80)
    tokenizer.save(directory / "tokenizer")
    fields = {
        "seq_len": 32,
        "pairs_per_row": 1,
        "passes": 1,
        "next_sentence": True,
        "short_share": 0.1,
        "seed": 0,
        **changes,
    }
    return ShardOptions(directory=str(directory), vocabulary=tokenizer.fingerprint, **fields)  # type: ignore[arg-type]


def write_shard(options: ShardOptions, block: Block[EncodedDocument]) -> Shard:
    (shard,) = write_shards([options], block)
    return shard


@pytest.mark.parametrize("vocab_size", [30522, 100_000])
def test_records_are_what_tfds_would_write(vocab_size: int) -> None:
    features = record_features(vocab_size)
    ids = np.array([2, 300, vocab_size - 1, 3, 9, 3], id_dtype(vocab_size))
    record = {"ids": ids, "lengths": [[4, 2]], "labels": [1], "pairs": [2**40]}
    serialized = _serialize([(2**40, Pair(ids, 4, 2, 1))])
    assert tfds.features.FeaturesDict.deserialize_example_np(features, serialized).keys() == record.keys()
    for name, value in features.deserialize_example_np(serialized).items():
        expected = features.deserialize_example_np(features.serialize_example(record))[name]
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def test_counts_are_those_of_the_text_and_the_rows(tmp_path: Path) -> None:
    shard = write_shard(make_options(tmp_path), Block("train", 7, DOCUMENTS, 300))
    assert (shard.split, shard.name) == ("train", "corpus-train.array_record-00007")
    assert (shard.counts["documents"], shard.counts["sentences"], shard.counts["bytes"]) == (3, 9, 300)
    assert shard.counts["unknown_tokens"] == 0
    assert shard.rows == shard.counts["pairs"] >= 3
    assert shard.token_counts.sum() == shard.counts["row_tokens"]
    assert shard.size == (tmp_path / shard.name).stat().st_size


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    strange = Document(("Ωmega ωmega sleep.",)).encoded()
    shard = write_shard(make_options(tmp_path), Block("train", 0, [*DOCUMENTS, strange], 0))
    assert shard.counts["unknown_tokens"] == 2


@pytest.mark.parametrize(("split", "times"), [("train", 3), ("validation", 1)])
def test_passes_draw_anew_for_training_only(tmp_path: Path, split: str, times: int) -> None:
    options = make_options(tmp_path, passes=3, seq_len=512, short_share=0.0)
    shard = write_shard(options, Block(split, 0, DOCUMENTS, 0))  # type: ignore[arg-type]
    assert shard.counts["documents"] == 3
    assert shard.rows >= 3 * times
    assert (shard.rows >= 9) == (times == 3)


def test_seed_and_number_of_the_block_decide_about_the_pairs(tmp_path: Path) -> None:
    def content(number: int, seed: int) -> bytes:
        shard = write_shard(make_options(tmp_path, seed=seed, passes=4), Block("train", number, DOCUMENTS, 0))
        return (tmp_path / shard.name).read_bytes()

    assert content(0, 0) == content(0, 0)
    assert len({content(0, 0), content(1, 0), content(0, 1)}) == 3


def test_documents_that_hold_nothing_are_an_error(tmp_path: Path) -> None:
    nothing = Document(("\u200b\x00",)).encoded()
    with pytest.raises(UserError, match="of 3 train documents only 1 hold more than control characters"):
        write_shard(make_options(tmp_path), Block("train", 0, [DOCUMENTS[0], nothing, nothing], 0))


def test_packed_rows_hold_the_same_pairs_under_the_same_numbers(tmp_path: Path) -> None:
    def pairs(pairs_per_row: int) -> tuple[dict[int, list[int]], list[int], Shard]:
        options = make_options(tmp_path, seq_len=64, short_share=1.0, passes=20, pairs_per_row=pairs_per_row)
        shard = write_shard(options, Block("train", 0, DOCUMENTS, 300))
        found, rows = {}, []
        for record in ArrayRecordReader(str(tmp_path / shard.name)).read_all():
            row = features.deserialize_example_np(record)
            rows.append(len(row["pairs"]))
            ends = np.cumsum(row["lengths"].sum(axis=1))[:-1]
            for pair, *of_pair in zip(
                row["pairs"], np.split(row["ids"], ends), row["lengths"], row["labels"], strict=True
            ):
                found[int(pair)] = [x.tolist() for x in of_pair]
        return found, rows, shard

    features = record_features(80)
    (alone, ones, unpacked), (together, several, packed) = pairs(1), pairs(3)
    assert alone == together
    assert sorted(alone) == list(range(unpacked.counts["pairs"]))
    assert set(ones) == {1}
    assert max(several) > 1
    assert packed.rows == packed.counts["rows"] == len(several) < unpacked.rows
    assert packed.counts["row_tokens"] == unpacked.counts["row_tokens"]
    np.testing.assert_array_equal(packed.token_counts, unpacked.token_counts)

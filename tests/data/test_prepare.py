import dataclasses
import filecmp
import hashlib
import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds

from bertjax.data import prepare as prepare_module
from bertjax.data import shards as shards_module
from bertjax.data.corpus import open_corpus
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.data.tokenizer import Tokenizer
from bertjax.errors import UserError

TEXT = "the a small old red fox hen boat river hill runs sleeps sees finds under over near and then never"
WORDS = TEXT.split()


def write_corpus(path: Path, documents: int, *, groups: int | None = None, seed: int = 0) -> Path:
    """Writes documents of made-up sentences; with groups, the first word of each tells its group."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for number in range(documents):
            sentences = [" ".join(draw.choices(WORDS, k=draw.randint(3, 12))) for _ in range(draw.randint(2, 12))]
            text = " ".join(sentence.capitalize() + "." for sentence in sentences)
            group = {} if groups is None else {"group": f"g{number % groups}"}
            marked = text if groups is None else f"{chr(97 + number % groups) * 3}. {text}"
            file.write(json.dumps({"text": marked, **group}) + "\n")
    return path


def make_config(output: Path, **changes: Any) -> PrepareConfig:
    return PrepareConfig(
        **{"output": str(output), "vocab_size": 200, "seq_len": 48, "validation_share": 0.1, **changes}
    )


def differences(left: Path, right: Path) -> list[str]:
    """Returns the files of one directory that the other lacks or has with other bytes."""
    names = {str(path.relative_to(top)) for top in (left, right) for path in top.rglob("*") if path.is_file()}
    _, different, missing = filecmp.cmpfiles(left, right, names, shallow=False)
    return different + missing


def test_a_prepared_corpus_reads_back_with_tfds_and_grain(tmp_path: Path) -> None:
    (manifest,) = prepare(make_config(tmp_path / "out"), [write_corpus(tmp_path / "a.jsonl", 200)])
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    source = tfds.builder_from_directory(tmp_path / "out").as_data_source("train")
    assert len(source) == manifest["splits"]["train"]["rows"]
    assert "tensorflow" not in sys.modules
    corpus = open_corpus(tmp_path / "out")
    dataset = grain.MapDataset.source(corpus.train).shuffle(seed=1)
    (record,) = dataset[:1]
    assert record["ids"].dtype == np.uint16
    assert record["lengths"].sum() == len(record["ids"]) <= 48
    assert record["ids"][0] == corpus.tokenizer.cls_id
    assert record["ids"][record["lengths"][0, 0] - 1] == record["ids"][-1] == corpus.tokenizer.sep_id


def test_counts_agree_with_the_rows(tmp_path: Path) -> None:
    prepare(make_config(tmp_path / "out"), [write_corpus(tmp_path / "a.jsonl", 200)])
    corpus = open_corpus(tmp_path / "out")
    for name, records in (("train", corpus.train), ("validation", corpus.validation)):
        split = corpus.manifest["splits"][name]
        rows = [records[index] for index in range(len(records))]
        assert split["rows"] == split["pairs"] == len(rows)
        assert split["random_pairs"] == sum(int(row["labels"].sum()) for row in rows)
        assert split["row_tokens"] == sum(len(row["ids"]) for row in rows)
        assert split["padding_share"] == pytest.approx(1 - split["row_tokens"] / (len(rows) * 48))
        assert split["unknown_tokens"] == split["unknown_share"] == 0
        assert split["one_sentence_share"] == split["one_sentence_pairs"] / len(rows)
        random_others = split["random_pairs"] - split["one_sentence_pairs"]
        assert split["random_share_of_others"] == random_others / (len(rows) - split["one_sentence_pairs"])
        for shard in split["shards"]:
            content = (tmp_path / "out" / shard["name"]).read_bytes()
            assert shard["blake2b"] == hashlib.blake2b(content, digest_size=16).hexdigest()
    counts = np.bincount(
        np.concatenate([corpus.train[index]["ids"] for index in range(len(corpus.train))]),
        minlength=corpus.tokenizer.vocab_size,
    )
    counts[list(corpus.tokenizer.special_ids)] = 0
    np.testing.assert_array_equal(corpus.token_counts, counts)
    assert sum(corpus.manifest["splits"][name]["documents"] for name in ("train", "validation")) == 200


def test_the_result_does_not_depend_on_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_SIZES", (10_000, 10_000))
    source = write_corpus(tmp_path / "a.jsonl", 300)
    (manifest,) = prepare(make_config(tmp_path / "one", workers=1), [source])
    prepare(make_config(tmp_path / "two", workers=2), [source])
    assert len(manifest["splits"]["train"]["shards"]) > 3
    assert differences(tmp_path / "one", tmp_path / "two") == []
    prepare(make_config(tmp_path / "other", workers=1, seed=1), [source])
    assert differences(tmp_path / "one", tmp_path / "other") != []


def test_pairs_are_numbered_through_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_SIZES", (10_000, 10_000))
    prepare(make_config(tmp_path / "out", workers=1), [write_corpus(tmp_path / "a.jsonl", 100)])
    records = open_corpus(tmp_path / "out").train
    assert [records[index]["pairs"].tolist() for index in range(len(records))] == [[i] for i in range(len(records))]


def test_documents_of_a_group_stay_in_one_split(tmp_path: Path) -> None:
    prepare(make_config(tmp_path / "out", validation_share=0.4), [write_corpus(tmp_path / "a.jsonl", 120, groups=12)])
    corpus = open_corpus(tmp_path / "out")

    def groups(records: Any) -> set[str]:
        texts = " ".join(corpus.tokenizer.decode(records[index]["ids"]) for index in range(len(records)))
        return {letter for letter in "abcdefghijkl" if letter * 3 in texts.replace(".", " ").split()}

    assert groups(corpus.train) | groups(corpus.validation) == set("abcdefghijkl")
    assert not groups(corpus.train) & groups(corpus.validation)


def test_without_next_sentence_every_token_is_in_a_row(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("\n\n".join(f"The fox {'runs ' * n}home. It sleeps." for n in range(30, 40)))
    prepare(make_config(tmp_path / "out", next_sentence=False), [source])
    for split in open_corpus(tmp_path / "out").manifest["splits"].values():
        assert split["row_tokens"] - 2 * split["rows"] == split["tokens"]
        assert split["random_pairs"] == 0


def test_each_of_several_lengths_is_what_it_would_be_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_SIZES", (10_000, 10_000))
    source = write_corpus(tmp_path / "a.jsonl", 200)
    monkeypatch.setattr(shards_module, "_encode", encode := Counted(shards_module._encode))
    manifests = prepare(make_config(tmp_path / "both", seq_len=(48, 24), pairs_per_row=2, workers=1), [source])
    tokenized = encode.calls
    for seq_len, manifest in zip((48, 24), manifests, strict=True):
        alone = tmp_path / f"alone-{seq_len}"
        encode.calls = 0
        assert prepare(make_config(alone, seq_len=seq_len, pairs_per_row=2, workers=1), [source]) == (manifest,)
        assert differences(alone, tmp_path / "both" / str(seq_len)) == []
        assert open_corpus(tmp_path / "both" / str(seq_len)).manifest["settings"]["seq_len"] == seq_len
        assert encode.calls == tokenized > 3
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["24", "48"]
    assert prepare(make_config(tmp_path / "both", seq_len=(24, 48), pairs_per_row=2), [source]) == manifests[::-1]
    with pytest.raises(UserError, match="both is not empty and holds no prepared corpus of 96 positions"):
        prepare(make_config(tmp_path / "both", seq_len=(48, 96), pairs_per_row=2), [source])


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.calls = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self.function(*arguments)


def test_the_same_corpus_is_not_prepared_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    (manifest,) = prepare(make_config(tmp_path / "out"), [source])
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert prepare(make_config(tmp_path / "out", workers=3), [source]) == (manifest,)
    assert "already prepared" in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="prepared with other seq_len, seed; choose another --output"):
        prepare(make_config(tmp_path / "out", seq_len=32, seed=3), [source])
    write_corpus(source, 20, seed=1)
    with pytest.raises(UserError, match="prepared with other sources"):
        prepare(make_config(tmp_path / "out"), [source])


def test_a_directory_with_something_else_is_left_alone(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    with pytest.raises(UserError, match="is not empty and holds no prepared corpus"):
        prepare(make_config(tmp_path), [source])
    assert source.exists()


@pytest.mark.parametrize("documents", [0, 1, 3])
def test_too_small_a_corpus_is_said_and_leaves_nothing(tmp_path: Path, documents: int) -> None:
    source = write_corpus(tmp_path / "a.jsonl", documents)
    with pytest.raises(UserError, match=f"too few documents: {documents},"):
        prepare(make_config(tmp_path / "out"), [source])
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_given_vocabulary_is_used_and_told_by_its_content(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    prepare(make_config(tmp_path / "first"), [source])
    vocab = tmp_path / "first" / "tokenizer" / "vocab.txt"
    (manifest,) = prepare(make_config(tmp_path / "out", vocab=str(vocab)), [source])
    assert manifest["settings"]["vocab"] == manifest["vocabulary"]["fingerprint"]
    vocab.rename(tmp_path / "moved.txt")
    assert prepare(make_config(tmp_path / "out", vocab=str(tmp_path / "moved.txt")), [source]) == (manifest,)


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 10},
        {"seq_len": 4},
        {"passes": 0},
        {"pairs_per_row": 0},
        {"passes": 2, "next_sentence": False},
        {"short_share": 1.5},
        {"validation_share": 0.0},
        {"workers": -1},
        {"seed": -1},
        {"seq_len": ()},
        {"seq_len": (48, 48)},
        {"seq_len": (48, 4)},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(changes))}="):
        make_config(tmp_path, **changes)


RUN = """
import resource, sys
from bertjax.data import prepare as module
from bertjax.errors import reported
module.BLOCK_SIZES = 20_000, 20_000
if __name__ == "__main__":
    limit = int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with reported():
        lengths = tuple(map(int, sys.argv[4:]))
        config = module.PrepareConfig(sys.argv[2], vocab_size=200, seq_len=lengths, workers=1)
        module.prepare(config, [sys.argv[1]])
"""


def test_bad_lines_are_skipped_when_asked_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    prepare(make_config(tmp_path / "good"), [source])
    lines = source.read_text().splitlines()
    source.write_text("\r\n".join([*lines[:5], "{", '{"body": "x"}', "", *lines[5:], "[1", '{"text": ""}', "5"]))
    with pytest.raises(UserError, match=r"a\.jsonl:6: not JSON"):
        prepare(make_config(tmp_path / "out"), [source])
    capsys.readouterr()
    (manifest,) = prepare(make_config(tmp_path / "out", skip_bad_lines=True), [source])
    assert manifest["skipped_lines"] == 4
    assert capsys.readouterr().err.count("skipped /") == 3
    changed = {"manifest.json"}
    assert set(differences(tmp_path / "good", tmp_path / "out")) == changed


def test_standard_input_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_corpus(tmp_path / "standard-input.jsonl", 20)
    prepare(make_config(tmp_path / "file"), [source])
    for input_format, message in ((None, "--input-format txt or jsonl"), ("jsonl", None)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
        config = make_config(tmp_path / "out", input_format=input_format)
        if message:
            with pytest.raises(UserError, match=message):
                prepare(config, ["-"])
        else:
            prepare(config, ["-"])
    assert differences(tmp_path / "file", tmp_path / "out") == []
    assert sorted(os.listdir(tmp_path)) == ["file", "out", "standard-input.jsonl"]


def kill_after_shards(run: subprocess.Popen[str], partial: Path, count: int) -> None:
    end = time.monotonic() + 60
    while len(list(partial.rglob("*.finished.npz"))) < count:
        assert time.monotonic() < end
        time.sleep(0.005)
    run.kill()


def test_a_killed_run_of_several_lengths_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_SIZES", (20_000, 20_000))
    source = write_corpus(tmp_path / "a.jsonl", 600)
    with start(tmp_path, source, lengths=(48, 32)) as run:
        kill_after_shards(run, tmp_path / "out.partial", 5)
    kept = [tmp_path / "out.partial" / n / "corpus-train.array_record-00000" for n in ("48", "32")]
    before = [path.stat().st_mtime_ns for path in kept]
    # Of the second block one length is not finished.
    (tmp_path / "out.partial" / "32" / "corpus-train.array_record-00001.finished.npz").unlink()
    config = make_config(tmp_path / "out", validation_share=0.01, seq_len=(48, 32))
    prepare(config, [source])
    assert "finished shards in" in capsys.readouterr().err
    after = [next((tmp_path / "out" / n).glob("corpus-train*00000-of-*")).stat().st_mtime_ns for n in ("48", "32")]
    assert after == before
    prepare(dataclasses.replace(config, output=str(tmp_path / "fresh")), [source])
    assert differences(tmp_path / "fresh", tmp_path / "out") == []


@pytest.mark.parametrize("damage", [False, True])
def test_a_killed_run_goes_on_and_its_result_is_that_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: bool
) -> None:
    monkeypatch.setattr(prepare_module, "BLOCK_SIZES", (20_000, 20_000))
    source = write_corpus(tmp_path / "a.jsonl", 1_000)
    with start(tmp_path, source) as run:
        kill_after_shards(run, tmp_path / "out.partial", 4)
    assert run.returncode == -signal.SIGKILL
    kept = tmp_path / "out.partial" / "corpus-train.array_record-00001"
    if damage:
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
    # Half a shard, half a note, as a kill at another moment leaves them.
    (tmp_path / "out.partial" / "corpus-train.array_record-00007").write_bytes(b"half")
    (tmp_path / "out.partial" / "corpus-train.array_record-00008.finished.npz").write_bytes(b"half")
    (tmp_path / "out.partial" / "corpus-train.array_record-00009.finished.npz").write_bytes(b"")
    before = kept.stat().st_mtime_ns
    config = make_config(tmp_path / "out", validation_share=0.01, workers=2)
    prepare(config, [source])
    assert re.search(r"going on with \d+ finished shards in \S+out.partial", capsys.readouterr().err)
    unchanged = (tmp_path / "out").glob("corpus-train.array_record-00001-of-*")
    assert (next(unchanged).stat().st_mtime_ns == before) != damage
    prepare(dataclasses.replace(config, output=str(tmp_path / "fresh")), [source])
    assert differences(tmp_path / "fresh", tmp_path / "out") == []
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("failing", [(os, "rename"), (np, "save")])
def test_what_fails_in_the_last_step_loses_no_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[Any, str]
) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 50)
    config = make_config(tmp_path / "out", seq_len=(48, 32))
    rename = getattr(*failing)

    def full(first: Any, second: Any, *more: Any) -> Any:
        if failing[1] == "save" or second == tmp_path / "out":
            raise OSError(28, "No space left on device")
        return rename(first, second, *more)

    with monkeypatch.context() as patched:
        patched.setattr(*failing, full)
        with pytest.raises(OSError, match="No space left"):
            prepare(config, [source])
    assert not (tmp_path / "out").exists()
    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, "write_shards", None)
        prepare(config, [source])
    prepare(dataclasses.replace(config, output=str(tmp_path / "fresh")), [source])
    assert differences(tmp_path / "fresh", tmp_path / "out") == []
    assert not (tmp_path / "out.partial").exists()


def test_a_run_killed_when_the_corpus_was_there_is_tidied_up_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, "remove_notes", None)
        with pytest.raises(TypeError):
            prepare(make_config(tmp_path / "out"), [source])
    assert len(open_corpus(tmp_path / "out").train)
    prepare(make_config(tmp_path / "out"), [source])
    assert "already prepared" in capsys.readouterr().err
    prepare(make_config(tmp_path / "fresh"), [source])
    assert differences(tmp_path / "fresh", tmp_path / "out") == []


def test_the_output_may_be_a_link_to_an_empty_folder(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    (tmp_path / "disk" / "corpus").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "corpus")
    prepare(make_config(tmp_path / "out"), [source])
    assert (tmp_path / "out").is_symlink()
    assert len(open_corpus(tmp_path / "disk" / "corpus").train)
    assert os.listdir(tmp_path / "disk") == ["corpus"]


def test_a_mount_point_is_refused_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 20)
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
    with pytest.raises(UserError, match=r"out is a mount point, .*; choose a folder in it, such as \S+/out/corpus"):
        prepare(make_config(tmp_path / "out"), [source])
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "out"]


def test_a_source_that_changes_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, other = (write_corpus(tmp_path / name, 20) for name in ("a.jsonl", "b.jsonl"))
    train = Tokenizer.train

    def slowly(texts: Iterable[str], **settings: Any) -> Tokenizer:
        write_corpus(source, 21)
        return train(texts, **settings)

    monkeypatch.setattr(Tokenizer, "train", slowly)
    with pytest.raises(UserError, match=r"^\S+/a.jsonl changed while the corpus was prepared"):
        prepare(make_config(tmp_path / "out"), [source, other])
    assert not (tmp_path / "out").exists()


def start(
    tmp_path: Path, source: Path, limit: int = resource.RLIM_INFINITY, lengths: Sequence[int] = (48,)
) -> subprocess.Popen[str]:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    return subprocess.Popen(
        [sys.executable, script, source, tmp_path / "out", str(limit), *map(str, lengths)],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_leaves_no_corpus_and_another_command_starts_anew(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "a.jsonl", 6_000)
    with start(tmp_path, source) as run:
        end = time.monotonic() + 20
        while not list(tmp_path.glob("out.partial/corpus-train*00002")):
            assert time.monotonic() < end
            time.sleep(0.01)
        with pytest.raises(UserError, match="another run is preparing"):
            prepare(make_config(tmp_path / "out"), [source])
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    smaller = write_corpus(tmp_path / "b.jsonl", 50)
    prepare(make_config(tmp_path / "out"), [smaller])
    prepare(make_config(tmp_path / "fresh"), [smaller])
    assert differences(tmp_path / "fresh", tmp_path / "out") == []
    assert not (tmp_path / "out.partial").exists()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with start(tmp_path, write_corpus(tmp_path / "a.jsonl", 100), limit=100_000) as run:
        _, errors = run.communicate()
    assert run.returncode == 1
    assert "Traceback" not in errors
    assert "could not be written" in errors
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "run.py"]

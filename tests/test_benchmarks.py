"""The benchmarks that compare, made small. What they show at full size is in docs/log.md."""

from __future__ import annotations

import dataclasses
import json
import marshal
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import finetune
from benchmarks import alternation, few_examples, prepare, reading, result
from bertjax.config import FinetuneConfig
from bertjax.data.tokenizer import SPECIAL_PIECES
from bertjax.errors import UserError


@pytest.mark.parity
def test_training_follows_hugging_faces_model_in_pytorch(corpus: Path) -> None:
    pytest.importorskip("transformers")
    from benchmarks import huggingface_curve

    small = huggingface_curve.Arguments(
        data=str(corpus), steps=5, batch_size=8, layers=1, width=32, heads=2, peak_lr=1e-2
    )
    found = huggingface_curve.compare(small)
    assert found["max_relative_difference"] < 2e-6  # without weight decay it would be 3e-6
    assert found["ours"][1] < found["ours"][0] - 0.1  # the updates count, too
    with pytest.raises(UserError, match="heads=3 do not divide width=32; use heads=2"):
        huggingface_curve.compare(dataclasses.replace(small, heads=3))


@pytest.mark.parity
@pytest.mark.parametrize("task", ["sst2", "wnut17"])
def test_fine_tuning_is_compared_with_a_plain_pytorch_loop(
    finished: Path, tmp_path: Path, task: Literal["sst2", "wnut17"]
) -> None:
    pytest.importorskip("transformers")
    from benchmarks import finetune_against_huggingface as benchmark

    rows = [("the old river follows some bread", 1), ("a small boat meets the miller", 0)] * 20
    files = {"sst2": ("train.tsv", "dev.tsv"), "wnut17": ("wnut17train.conll", "emerging.dev.conll")}[task]
    for name in files:
        if task == "sst2":
            lines = ["sentence\tlabel", *(f"{text}\t{label}" for text, label in rows)]
        else:
            lines = [line for text, _ in rows for line in [*(f"{w}\t{tag(w)}" for w in text.split()), ""]]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    a = benchmark.Arguments(
        str(finished),
        str(tmp_path),
        task=task,
        seeds=(0, 1),
        examples=39,
        epochs=4,
        batch_size=8,
        peak_lr=1e-2,
        seq_len=16,  # one length for both classes, or batches of one length would be of one class
    )
    found = benchmark.compare(a)
    for side in ("ours", "theirs"):
        assert max(found[side]["figures"]) > 0.9
        assert len(found[side]["seconds"]) == 2
    assert found["seconds_ratio"] == found["ours"]["mean_seconds"] / found["theirs"]["mean_seconds"]
    with pytest.raises(UserError, match="give no standard error"):
        benchmark.compare(dataclasses.replace(a, seeds=(0,)))
    with pytest.raises(UserError, match="has no file"):
        benchmark.compare(dataclasses.replace(a, data=str(finished)))


def tag(word: str) -> str:
    return {"river": "B-thing", "boat": "B-thing", "old": "O"}.get(word, "O")


def test_each_seed_has_a_run_with_the_pretraining_and_one_without_all_else_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, FinetuneConfig] = {}

    def run(c: FinetuneConfig, workdir: Path) -> dict[str, float]:
        runs[workdir.name] = c
        accuracy = (0.5 if c.train.from_scratch else 0.75) + c.train.seed / 16
        return {"accuracy": accuracy, "majority_accuracy": 0.125, "bag_of_words_accuracy": 0.25}

    monkeypatch.setattr(finetune, "run", run)
    config = few_examples.make_config(few_examples.Arguments("RUN"))
    assert few_examples.compare(config, (0, 4), tmp_path) == {
        "pretrained": {"accuracies": [0.75, 1.0], "mean": 0.875, "standard_deviation": 0.125 * 2**0.5},
        "from_scratch": {"accuracies": [0.5, 0.75], "mean": 0.625, "standard_deviation": 0.125 * 2**0.5},
        "majority": {"accuracies": [0.125, 0.125], "mean": 0.125, "standard_deviation": 0},
        "bag_of_words": {"accuracies": [0.25, 0.25], "mean": 0.25, "standard_deviation": 0},
    }
    assert runs.keys() == {"pretrained-0", "from_scratch-0", "pretrained-4", "from_scratch-4"}
    for c in runs.values():
        same = dataclasses.replace(c.train, seed=config.train.seed, from_scratch=False)
        assert dataclasses.replace(c, train=same) == config


def test_one_seed_has_no_deviation() -> None:
    assert few_examples.summary([0.5]) == {"accuracies": [0.5], "mean": 0.5, "standard_deviation": None}


def test_few_examples_takes_the_quickstarts_task() -> None:
    config = few_examples.make_config(few_examples.Arguments("RUN", examples_per_class=7, epochs=2))
    assert (config.init_from, config.data.train, config.data.examples_per_class) == ("RUN", "installed-docs", 7)
    with pytest.raises(UserError, match="epochs=0 is not greater than 0"):
        few_examples.make_config(few_examples.Arguments("RUN", epochs=0))
    with pytest.raises(UserError, match="give at least one"):
        few_examples.compare(config, (), Path("nowhere"))


def test_a_result_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    result.print_result("name", {"seconds": 1.5}, "jax")
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert (printed["benchmark"], printed["seconds"]) == ("name", 1.5)
    assert {"python", "bertjax", "jax"} == printed["versions"].keys()


def test_reading_counts_rows(corpus: Path) -> None:
    found = reading.measure(reading.Arguments(str(corpus), batch_size=8, batches=3, wanted=10**9))
    assert found["seq_len"] == 32
    assert 0 < found["slots_used"] < 1
    assert found["rows_per_second"] > 0
    assert found["processes"] == pytest.approx(10**9 / found["rows_per_cpu_second"], rel=0.01)


def test_preparing_is_compared_with_the_bare_tokenizer(tmp_path: Path) -> None:
    text, vocab = tmp_path / "a.txt", tmp_path / "vocab.txt"
    text.write_text("\n\n".join(f"Bees fly {'home ' * n}. They sleep." for n in range(9)))
    vocab.write_text("\n".join([*SPECIAL_PIECES, "bees", "fly", "home", "."]))
    found = prepare.compare(prepare.Arguments(str(text), str(vocab), rounds=1))
    assert found["megabytes"] == pytest.approx(len(text.read_bytes()) / 1e6, rel=0.1)
    assert set(found["gain_of_second_core"]) == {"bare", "ours"}
    for variant in ("bare_1", "bare_2", "ours_1", "ours_2"):
        assert found[variant]["megabytes_per_second"] == found["megabytes"] / found[variant]["seconds"]
        assert 0 < found[variant]["gigabytes"] < 4


SCRIPT = """
import os
import shutil

import tensorflow as tf

for name in ("input_file", "output_file", "vocab_file"):
    tf.flags.DEFINE_string(name, None, "a file")
tf.flags.DEFINE_integer("dupe_factor", 10, "how often")
FLAGS = tf.flags.FLAGS


def main(_):
    tf.logging.set_verbosity(tf.logging.INFO)
    assert FLAGS.dupe_factor == 1
    train, folder = tf.train, os.path.dirname(FLAGS.vocab_file)
    (path,) = tf.gfile.Glob(FLAGS.input_file)
    with tf.gfile.GFile(path, "r") as file, open(os.path.join(folder, "read"), "w") as read:
        read.write(file.read())
    ids = train.Feature(int64_list=train.Int64List(value=[1, 2]))
    weights = train.Feature(float_list=train.FloatList(value=[0.5]))
    writer = tf.python_io.TFRecordWriter(FLAGS.output_file)
    features = train.Features(feature={"ids": ids, "weights": weights})
    writer.write(train.Example(features=features).SerializeToString())
    writer.close()
    shutil.copy(FLAGS.output_file, os.path.join(folder, "written"))
"""
"""What google-research/bert's script asks of TensorFlow, without its work."""


def test_googles_script_gets_a_sentence_a_line_and_runs_without_tensorflow(tmp_path: Path) -> None:
    text, vocab, script = tmp_path / "a.txt", tmp_path / "vocab.txt", tmp_path / "script.py"
    text.write_text("\n\n".join(f"Bee {n} flies. It sleeps." for n in range(9)))
    vocab.write_text("\n".join([*SPECIAL_PIECES, "bees"]))
    script.write_text(SCRIPT)
    found = prepare.compare(prepare.Arguments(str(text), str(vocab), 1, variants=("ours_1",), google=str(script)))
    assert found["ours_over_google"] == found["google"]["seconds"] / found["ours_1"]["seconds"]
    assert found["ours_over_bare"] is None
    assert (tmp_path / "read").read_text() == "".join(f"Bee {n} flies.\nIt sleeps.\n\n" for n in range(9))
    assert marshal.loads((tmp_path / "written").read_bytes()) == {"ids": [1, 2], "weights": [0.5]}


@pytest.mark.parity
def test_embedding_compares_the_same_vectors(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from benchmarks import embedding

    (tmp_path / "texts.txt").write_text("".join(f"{'the miller meets a heron ' * (i % 9)}again\n" for i in range(20)))
    small = embedding.Arguments(str(tmp_path / "texts.txt"), size="small", count=20, batch_size=4, repeats=1)
    found = embedding.measure(small, tmp_path)
    assert (found["texts"], found["longest_tokens"]) == (20, 43)
    speeds = found["texts_per_second"]
    best = max(speeds["transformers"], speeds["transformers_by_length"])
    assert found["ratio"] == pytest.approx(speeds["bertjax"] / best)
    assert found["ratio_in_file_order"] == pytest.approx(speeds["bertjax"] / speeds["transformers"])
    assert min(*speeds.values(), *found["first_answer_seconds"].values()) > 0
    vectors = {"one": np.ones((1, 2)), "two": np.zeros((1, 2))}
    with pytest.raises(ValueError, match="two gives other vectors than one"):
        embedding.check_same({name: alternation.Timing([1.0], {"vectors": found}) for name, found in vectors.items()})
    with pytest.raises(UserError, match="has 20 texts; use --count 20"):
        embedding.measure(dataclasses.replace(small, count=21), tmp_path)
    with pytest.raises(UserError, match="size='huge' is unknown; use one of tiny"):
        embedding.measure(dataclasses.replace(small, size="huge"), tmp_path)

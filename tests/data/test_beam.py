"""Preparation on Apache Beam's direct runner against preparation on one machine (extra `beam`)."""

from __future__ import annotations

import filecmp
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bertjax.data.beam import Reading, Stub, _save_blocks
from bertjax.data.blocks import Block, blocks_from_documents
from bertjax.data.prepare import prepare
from bertjax.data.settings import PrepareConfig
from bertjax.errors import UserError
from tests.data.test_prepare import write_corpus

RUN = """
import sys
from bertjax.data import prepare as module
from bertjax.errors import reported
module.BLOCK_SIZES = 20_000, 20_000
if __name__ == "__main__":
    with reported():
        beam = sys.argv[3] or None
        c = module.PrepareConfig(sys.argv[1], vocab=sys.argv[2], seq_len=(32, 48), skip_bad_lines=True, beam=beam)
        module.prepare(c, sys.argv[4:])
"""

needs_beam = pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs the extra beam")


def run(output: Path, vocab: Path, beam: str, *files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, str(output), str(vocab), beam, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    text = write_corpus(tmp_path / "words.jsonl", 40)
    prepare(PrepareConfig(str(tmp_path / "words"), vocab_size=200, validation_share=0.2), [text])
    return tmp_path / "words" / "tokenizer" / "vocab.txt"


@needs_beam
def test_the_corpus_is_that_of_one_machine(tmp_path: Path, vocab: Path) -> None:
    files = [write_corpus(tmp_path / f"{n}.jsonl", 100 * n, seed=n) for n in (3, 1, 2)]
    with files[1].open("a") as file:
        file.write("no JSON\n")
    for output, beam in (("local", ""), ("beam", "--runner=DirectRunner")):
        done = run(tmp_path / output, vocab, beam, *files)
        assert done.returncode == 0, done.stderr
    names = [str(path.relative_to(tmp_path / "local")) for path in (tmp_path / "local").rglob("*") if path.is_file()]
    assert len([name for name in names if "train.array_record" in name]) > 8
    assert sorted(names) == sorted(
        str(path.relative_to(tmp_path / "beam")) for path in (tmp_path / "beam").rglob("*") if path.is_file()
    )
    assert filecmp.cmpfiles(tmp_path / "local", tmp_path / "beam", names, shallow=False)[1:] == ([], [])
    assert not (tmp_path / "beam.partial").exists()


def test_blocks_are_cut_with_one_file_open_at_a_time(tmp_path: Path) -> None:
    reading = Reading(tuple(f"{n}.txt" for n in range(30)), "strict", False, str(tmp_path))
    for file in range(30):
        np.savez(reading.note(file), places=np.linspace(0, 1, file), sizes=np.full(file, 100), skipped=0)
    opened = []

    def cut(stubs: Iterable[Stub]) -> Iterator[Block[Stub]]:
        def counted() -> Iterator[Stub]:
            for stub in stubs:
                opened.append(len(os.listdir("/proc/self/fd")))
                yield stub

        return blocks_from_documents(counted(), validation_share=0.1, least=2, block_size=1000)

    before = len(os.listdir("/proc/self/fd"))
    blocks = _save_blocks(reading, cut)
    assert len(opened) == 435
    assert max(opened) <= before
    saved = [np.load(reading.blocks(file)) for file in range(30)]
    assert list(map(len, saved)) == list(range(30))
    assert len(np.unique(np.concatenate(saved))) == sum(blocks) > 30


@needs_beam
def test_mistakes_are_one_line(tmp_path: Path, vocab: Path) -> None:
    text = write_corpus(tmp_path / "a.jsonl", 60)
    done = run(tmp_path / "out", vocab, "--runner=Nowhere", text)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: beam='--runner=Nowhere': Unexpected pipeline runner: Nowhere")
    assert "Traceback" not in done.stderr
    (tmp_path / "b.txt").write_bytes(b"one \xff two")
    done = run(tmp_path / "out", vocab, "--runner=DirectRunner", text, tmp_path / "b.txt")
    assert done.returncode == 1
    assert re.search(r"^error: \S+b.txt:1: byte 0xff at offset 4 is not UTF-8 text", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Beam is installed")
def test_without_the_extra_it_is_named(tmp_path: Path, vocab: Path) -> None:
    text = write_corpus(tmp_path / "a.jsonl", 60)
    with pytest.raises(UserError, match=r"needs an extra: pip install 'bertjax\[beam\]'"):
        prepare(PrepareConfig(str(tmp_path / "out"), vocab=str(vocab), beam="--runner=DirectRunner"), [text])

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data.batches import training_batches
from bertjax.data.local_copy import local_copy
from bertjax.data.mixture import open_mixture
from bertjax.errors import UserError


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_reads_the_copy_and_the_same_rows(corpus: Path, tmp_path: Path) -> None:
    source = tmp_path / "far"
    shutil.copytree(corpus, source)
    c = DataConfig(path=str(source), seq_len=32, cache=str(tmp_path / "near"))
    mixture = open_mixture(c)
    shutil.rmtree(source)
    assert mixture.corpora[0].directory.is_relative_to(tmp_path / "near")
    ours = training_batches(mixture, c, rows=range(4), batch_size=4, seed=0)(3)
    theirs = open_mixture(DataConfig(path=str(corpus), seq_len=32))
    for name, value in training_batches(theirs, c, rows=range(4), batch_size=4, seed=0)(3).items():
        np.testing.assert_array_equal(ours[name], value)


def test_what_a_killed_process_left_is_completed_and_a_whole_copy_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    copy = local_copy(str(corpus), tmp_path)
    whole = files(copy)
    assert whole.keys() == files(corpus).keys() | {".whole"}
    shard = next(path for path in copy.iterdir() if "train" in path.name)
    (copy / ".whole").unlink()
    shard.rename(shard.with_name(f"{shard.name}.unfinished"))
    kept = (copy / "manifest.json").stat().st_mtime_ns
    assert local_copy(str(corpus), tmp_path) == copy
    assert files(copy) == whole
    assert (copy / "manifest.json").stat().st_mtime_ns == kept


def damage(shard: Path) -> bytes:
    """Damages a shard; returns what it was."""
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + b"x")
    return whole


def test_a_damaged_shard_of_the_copy_is_copied_again(corpus: Path, tmp_path: Path) -> None:
    copy = local_copy(str(corpus), tmp_path)
    whole = files(copy)
    (copy / ".whole").unlink()
    damage(next(path for path in copy.iterdir() if "train" in path.name))
    assert local_copy(str(corpus), tmp_path) == copy
    assert files(copy) == whole


def test_several_processes_share_one_copy(corpus: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        copies = pool.starmap(local_copy, [(str(corpus), tmp_path)] * 4)
    assert len({*copies}) == 1
    assert files(copies[0]).keys() == files(corpus).keys() | {".whole"}


def test_a_damaged_source_is_said_and_may_be_mended(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "bad")
    shard = next(path for path in (tmp_path / "bad").iterdir() if "train" in path.name)
    whole = damage(shard)
    with pytest.raises(UserError, match=f"^{shard} is not what was written"):
        local_copy(str(tmp_path / "bad"), tmp_path / "near")
    shard.write_bytes(whole)
    assert files(local_copy(str(tmp_path / "bad"), tmp_path / "near")).keys() == files(corpus).keys() | {".whole"}


def test_a_folder_without_a_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere holds no prepared corpus"):
        local_copy("nowhere", tmp_path)

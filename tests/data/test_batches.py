"""Batches: a function of the step; every row once an epoch; masks that follow the pair; blocks of hosts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bertjax.config import DataConfig
from bertjax.data import batches
from bertjax.data.mixture import Mixture, open_mixture

C = DataConfig(seq_len=32)
ALL = range(8)


@pytest.fixture(scope="module")
def opened(corpus: Path) -> Mixture:
    return open_mixture(dataclasses.replace(C, path=str(corpus)))


def restored(batch: batches.Batch) -> np.ndarray:
    """Returns the ids before masking."""
    ids = batch["ids"].copy()
    for row, places, labels, weights in zip(ids, batch["predict"], batch["labels"], batch["weights"], strict=True):
        row[places[weights > 0]] = labels[weights > 0]
    return ids


def test_a_row_is_its_pair(opened: Mixture) -> None:
    batch = batches.training_batches(opened, C, rows=ALL, batch_size=8, seed=0)(0)
    tokenizer = opened.tokenizer
    for b, ids in enumerate(restored(batch)):
        length = int((batch["spans"][b] > 0).sum())
        ends = np.flatnonzero(ids == tokenizer.sep_id)
        assert ids[0] == tokenizer.cls_id
        assert list(ends)[-1] == length - 1
        assert batch["segments"][b].tolist() == [0] * (ends[0] + 1) + [1] * (ends[1] - ends[0]) + [0] * (32 - length)
        assert batch["positions"][b, :length].tolist() == list(range(length))
        assert (ids[length:] == 0).all()
    assert (batch["cls"] == 0).all()
    assert (batch["next_weights"] == 1).all()


def test_any_step_is_the_same_in_any_order_and_any_process(opened: Mixture) -> None:
    one = batches.training_batches(opened, C, rows=ALL, batch_size=8, seed=0)
    later = one(100)
    other = batches.training_batches(opened, C, rows=ALL, batch_size=8, seed=0)
    for name, value in other(100).items():
        np.testing.assert_array_equal(value, later[name])
    assert (batches.training_batches(opened, C, rows=ALL, batch_size=8, seed=1)(100)["ids"] != later["ids"]).any()


def test_hosts_read_contiguous_blocks_of_the_same_batch(opened: Mixture) -> None:
    whole = batches.training_batches(opened, C, rows=ALL, batch_size=8, seed=0)(5)
    halves = [
        batches.training_batches(opened, C, rows=rows, batch_size=8, seed=0)(5) for rows in (range(4), range(4, 8))
    ]
    for name, value in whole.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value)


def test_an_epoch_has_every_row_once_and_the_next_has_another_order_and_other_masks(opened: Mixture) -> None:
    train = opened.corpora[0].train
    size = len(train)
    batch = batches.training_batches(opened, C, rows=range(1), batch_size=1, seed=0)
    epochs = [[batch(step) for step in range(e * size, (e + 1) * size)] for e in range(2)]
    texts = [[restored(b)[0].tobytes() for b in epoch] for epoch in epochs]
    assert sorted(texts[0]) == sorted(texts[1])
    assert sorted(texts[0]) == sorted(
        np.pad(train[i]["ids"], (0, 32 - len(train[i]["ids"]))).astype(np.int32).tobytes() for i in range(size)
    )
    assert texts[0] != texts[1]
    masked = [
        {text: b["ids"][0].tobytes() for text, b in zip(t, e, strict=True)} for t, e in zip(texts, epochs, strict=True)
    ]
    same = sum(masked[0][text] == masked[1][text] for text in masked[0])
    assert same < 0.1 * size


def test_held_out_rows_are_each_there_once_with_fixed_masks(opened: Mixture) -> None:
    size = opened.rows("validation")
    first, second = (batches.evaluation_batches(opened, C, batch_size=8, limit=10_000) for _ in range(2))
    assert sum(int(b["next_weights"].sum()) for b in first) == size
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a["ids"], b["ids"])
    assert (
        sum(
            int((b["spans"] > 0).any(axis=1).sum())
            for b in batches.evaluation_batches(opened, C, batch_size=8, limit=10)
        )
        == 10
    )


def test_held_out_rows_are_masked_at_their_own_rate(opened: Mixture) -> None:
    """So that the figures of runs compare that learn with different rates."""

    def predicted(c: DataConfig) -> list[np.ndarray]:
        return [b["predict"] for b in batches.evaluation_batches(opened, c, batch_size=8, limit=10_000)]

    learned_with_more = predicted(dataclasses.replace(C, mask_rate=0.4))
    for a, b in zip(predicted(C), learned_with_more, strict=True):
        np.testing.assert_array_equal(a, b)
    more = predicted(dataclasses.replace(C, eval_mask_rate=0.4))
    assert sum((p > 0).sum() for p in more) > 2 * sum((p > 0).sum() for p in learned_with_more)


def test_baselines_are_those_of_the_token_counts(opened: Mixture) -> None:
    held_out = batches.evaluation_batches(opened, C, batch_size=8, limit=10_000)
    labels = np.concatenate([b["labels"][b["weights"] > 0] for b in held_out])
    counts = opened.token_counts
    found = batches.unigram_baselines(held_out, counts)
    assert found["unigram_mlm_accuracy"] == np.mean(labels == counts.argmax())
    expected = -np.mean([np.log((counts[i] + 1) / (counts.sum() + len(counts))) for i in labels])
    assert found["unigram_mlm_loss"] == pytest.approx(expected)
    following = np.concatenate([b["next"][b["next_weights"] > 0] for b in held_out])
    assert found["majority_nsp_accuracy"] == max(np.mean(following == 0), np.mean(following == 1))


def test_prefetched_batches_come_in_order_from_any_start() -> None:
    assert list(batches.prefetched(lambda step: step * step, range(7, 30), threads=4, ahead=8)) == [
        step * step for step in range(7, 30)
    ]

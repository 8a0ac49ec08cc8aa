"""The benchmark of embedding, made small."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import bertjax
from benchmarks import inference
from bertjax.errors import UserError


def test_texts_have_the_length_that_is_asked_for(finished: Path) -> None:
    tokenizer = bertjax.load(finished).tokenizer
    texts = inference.make_texts(tokenizer, 9, 4)
    assert [len(ids) + 2 for ids in tokenizer.encode_batch(texts)] == [9] * 4
    with pytest.raises(UserError, match="no text has length=2: use 3 or more"):
        inference.make_texts(tokenizer, 2, 1)


def test_every_bucket_is_timed(finished: Path) -> None:
    a = inference.Arguments(str(finished), lengths=(8, 16), batches=(1, 3), repeats=2)
    found = inference.measure(a)
    assert [(b["tokens"], b["texts"]) for b in found["buckets"]] == [(8, 1), (8, 3), (16, 1), (16, 3)]
    for bucket in found["buckets"]:
        assert bucket["milliseconds"]["slowest"] >= bucket["milliseconds"]["median"] > 0
        assert bucket["texts_per_second"] == pytest.approx(bucket["texts"] / bucket["milliseconds"]["median"] * 1e3)
    with pytest.raises(UserError, match="has 40 tokens"):
        inference.measure(dataclasses.replace(a, lengths=(40,)))

"""A corpus whose shards are all there: its manifest, and the files that stand beside them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from bertjax.data.blocks import SPLITS, Split
from bertjax.data.corpus import Manifest
from bertjax.data.shards import Shard, record_features, shard_name
from bertjax.data.tokenizer import Tokenizer


class Collected:
    """The shards of a corpus, without what would make the memory grow with their number."""

    def __init__(self, tokenizer: Tokenizer):
        self.shards: list[Shard] = []
        self.token_counts = np.zeros(tokenizer.vocab_size, np.int64)
        """Of the training rows."""

    def add(self, shard: Shard) -> None:
        """Takes a shard."""
        if shard.split == "train":
            self.token_counts += shard.token_counts
        self.shards.append(shard._replace(token_counts=self.token_counts[:0]))

    def of(self, split: Split) -> list[Shard]:
        """Returns the shards of a split."""
        return [shard for shard in self.shards if shard.split == split]


def complete(directory: Path, made_of: Mapping[str, Any], collected: Collected, tokenizer: Tokenizer) -> Manifest:
    """Gives the shards in `directory` their final names, writes what stands beside them, and returns the manifest.

    `made_of` is what the manifest says besides: settings, sources.
    """
    manifest = {**made_of, **_describe(collected, tokenizer, made_of["settings"]["seq_len"])}
    for split in SPLITS:
        for shard, entry in zip(collected.of(split), manifest["splits"][split]["shards"], strict=True):
            os.rename(directory / shard.name, directory / entry["name"])
    _write_tfds_metadata(directory, manifest)
    counts_V = collected.token_counts.copy()
    counts_V[list(tokenizer.special_ids)] = 0
    np.save(directory / "token_counts.npy", counts_V)
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _describe(collected: Collected, tokenizer: Tokenizer, seq_len: int) -> Manifest:
    return {
        "vocabulary": {
            "entries": tokenizer.vocab_size,
            "cased": tokenizer.cased,
            "fingerprint": tokenizer.fingerprint,
        },
        "splits": {split: _describe_split(collected.of(split), seq_len) for split in SPLITS},
    }


def _describe_split(shards: list[Shard], seq_len: int) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for shard in shards:
        counts.update(shard.counts)  # unlike +, keeps what is 0
    return {
        **counts,
        **_shares(counts),
        "padding_share": 1 - counts["row_tokens"] / (counts["rows"] * seq_len),
        "shards": [
            {
                "name": shard_name(shard.split, index, len(shards)),
                "rows": shard.rows,
                "pairs": shard.counts["pairs"],
                "bytes": shard.size,
                "blake2b": shard.checksum,
            }
            for index, shard in enumerate(shards)
        ],
    }


def _shares(counts: Counter[str]) -> dict[str, float]:
    several = counts["pairs"] - counts["one_sentence_pairs"]
    return {
        "unknown_share": counts["unknown_tokens"] / counts["tokens"],
        "one_sentence_share": counts["one_sentence_pairs"] / counts["pairs"],
        # A chunk of one sentence has no other choice; among the others half are meant to be random.
        "random_share_of_others": (counts["random_pairs"] - counts["one_sentence_pairs"]) / max(1, several),
    }


def _write_tfds_metadata(directory: Path, manifest: Manifest) -> None:
    infos = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard["rows"] for shard in split["shards"]],
            num_bytes=sum(shard["bytes"] for shard in split["shards"]),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=directory, dataset_name="corpus", split=name, filetype_suffix="array_record"
            ),
        )
        for name, split in manifest["splits"].items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=record_features(manifest["vocabulary"]["entries"]),
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,  # would need TensorFlow
    )

"""Blocks: the units of work of data preparation, cut and split into train and validation as the documents stream by."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

from bertjax.errors import UserError

Split = Literal["train", "validation"]
SPLITS: tuple[Split, Split] = ("train", "validation")


class Content(Protocol):
    """What blocks are made of: documents, records that were made of documents, or what stands for either."""

    @property
    def place(self) -> float:
        """Between 0 and 1, as `place_of` makes it."""

    @property
    def size(self) -> int:
        """Bytes."""


D = TypeVar("D", bound=Content)


class Block(NamedTuple, Generic[D]):
    """Documents that are prepared together; the second segment of a random pair comes from the same block."""

    split: Split
    number: int
    """Among the blocks of its split."""
    documents: list[D]
    size: int
    """Bytes of text."""


class _Placed(NamedTuple, Generic[D]):
    """A document whose place and size are computed once."""

    document: D
    place: float
    size: int


def blocks_from_documents(
    documents: Iterable[D], *, validation_share: float, least: int, block_size: int
) -> Iterator[Block[D]]:
    """Yields the blocks of both splits, of about `block_size` bytes and at least `least` documents each.

    A document is held out if the hash of its group, or else of its content, lies below `validation_share`. Where that
    leaves a split with fewer than `least` of the documents of the first `block_size` bytes, the lowest hashes among
    these are held out, so that a small corpus is split too. The blocks depend on the documents in their order only.

    Raises: UserError if there are too few documents for two splits.
    """
    stream = map(_placed, documents)
    head = list(_take_bytes(stream, block_size))
    held_out = _hold_out(head, validation_share, least)
    cutters: dict[Split, _Cutter[D]] = {split: _Cutter(split, least, block_size) for split in SPLITS}
    for placed in itertools.chain(head, stream):
        validates = held_out.get(placed.place, placed.place < validation_share)
        yield from cutters["validation" if validates else "train"].add(placed)
    train, validation = (cutters[split].count for split in SPLITS)
    if min(train, validation) < least:
        raise UserError(
            f"the corpus has too few documents: {train + validation}, of which {train} are left for training and"
            f" {validation} are held out; both need at least {least}. Add documents (a blank line parts them in .txt,"
            " a line in .jsonl), or put them into more groups"
        )
    for cutter in cutters.values():
        yield cutter.rest()


def place_of(content: bytes, group: str | None = None) -> float:
    """Returns a number between 0 and 1 by a hash: the same for the documents of a group, and for equal documents."""
    key = content if group is None else f"group {group}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) / 2**64


def _placed(document: D) -> _Placed[D]:
    return _Placed(document, document.place, document.size)


def _take_bytes(stream: Iterator[_Placed[D]], size: int) -> Iterator[_Placed[D]]:
    while size > 0 and (placed := next(stream, None)):
        size -= placed.size
        yield placed


def _hold_out(head: list[_Placed[D]], validation_share: float, least: int) -> dict[float, bool]:
    """Returns for each place in `head` whether it is held out, leaving both splits `least` documents if possible."""
    documents = Counter(placed.place for placed in head)
    held_out, count = dict.fromkeys(documents, False), 0
    for place in sorted(documents):
        wanted = place < validation_share or count < least
        if wanted and len(head) - count - documents[place] >= least:
            held_out[place] = True
            count += documents[place]
    return held_out


@dataclasses.dataclass
class _Cutter(Generic[D]):
    """Cuts the documents of one split into blocks, holding back what a last block would have too few of."""

    split: Split
    least: int
    block_size: int
    count: int = 0
    blocks: int = 0
    full: Block[D] | None = None
    documents: list[D] = dataclasses.field(default_factory=list)
    size: int = 0

    def add(self, placed: _Placed[D]) -> Iterator[Block[D]]:
        """Takes a document; yields a block when enough documents follow it for another one."""
        self.count += 1
        self.documents.append(placed.document)
        self.size += placed.size
        if len(self.documents) < self.least:
            return
        if self.full is not None:
            yield self.full
            self.full = None
        if self.size >= self.block_size:
            self.full = self._block()

    def rest(self) -> Block[D]:
        """Returns the last block; there is one if any document came."""
        if self.full is None:
            return self._block()
        documents = [*self.full.documents, *self.documents]
        return self.full._replace(documents=documents, size=self.full.size + self.size)

    def _block(self) -> Block[D]:
        block = Block(self.split, self.blocks, self.documents, self.size)
        self.blocks += 1
        self.documents, self.size = [], 0
        return block

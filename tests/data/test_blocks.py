from collections.abc import Iterator

import pytest

from bertjax.data.blocks import SPLITS, Block, blocks_from_documents
from bertjax.data.documents import EncodedDocument
from bertjax.errors import UserError


def make_documents(count: int, *, groups: int | None = None, size: int = 100) -> list[EncodedDocument]:
    return [
        EncodedDocument((f"{n:0{size}}".encode(),), None if groups is None else f"group {n % groups}")
        for n in range(count)
    ]


def cut(documents: list[EncodedDocument], share: float = 0.1, *, least: int = 2, block_size: int = 1000) -> list[Block]:
    return list(blocks_from_documents(documents, validation_share=share, least=least, block_size=block_size))


def of_split(blocks: list[Block], split: str) -> list[EncodedDocument]:
    return [document for block in blocks if block.split == split for document in block.documents]


def test_every_document_is_in_one_block_in_order() -> None:
    documents = make_documents(1000)
    blocks = cut(documents)
    train, validation = (of_split(blocks, split) for split in SPLITS)
    assert sorted(train + validation) == documents
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert abs(len(validation) - 100) < 4 * 9.5  # binomial


def test_blocks_are_numbered_full_and_never_too_short() -> None:
    for count in range(4, 60):
        blocks = cut(make_documents(count))
        for split in SPLITS:
            own = [block for block in blocks if block.split == split]
            assert [block.number for block in own] == list(range(len(own)))
            assert all(block.size >= 1000 for block in own[:-1])
            assert all(block.size == 100 * len(block.documents) <= 1100 for block in own)
            assert all(len(block.documents) >= 2 for block in own)


def test_documents_bigger_than_a_block_still_come_in_twos() -> None:
    blocks = cut(make_documents(40, size=5000))
    assert all(2 <= len(block.documents) <= 3 for block in blocks)


def test_the_split_of_a_document_depends_on_its_text_only() -> None:
    documents = make_documents(2000)
    held_out = set(of_split(cut(documents, block_size=20_000), "validation"))
    assert set(of_split(cut(documents[::-1], block_size=20_000), "validation")) == held_out
    longer = of_split(cut(documents + make_documents(3000)[2000:], block_size=20_000), "validation")
    assert held_out == set(longer) & set(documents)


def test_groups_and_equal_documents_stay_in_one_split() -> None:
    blocks = cut(make_documents(1000, groups=50) + make_documents(300) * 2, 0.3)
    train, validation = (set(of_split(blocks, split)) for split in SPLITS)
    assert not train & validation
    assert not {d.group for d in train if d.group} & {d.group for d in validation if d.group}
    assert {d.group for d in validation} - {None}


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("count", [4, 5, 9, 30])
@pytest.mark.parametrize("block_size", [1000, 10**6])
def test_small_corpora_get_both_splits(count: int, share: float, block_size: int) -> None:
    blocks = cut(make_documents(count), share, block_size=block_size)
    assert all(len(of_split(blocks, split)) >= 2 for split in SPLITS)


def test_a_share_too_small_for_the_corpus_holds_out_two() -> None:
    assert len(of_split(cut(make_documents(500), 1e-9), "validation")) == 2


def test_a_big_group_is_not_held_out_where_nothing_would_be_left() -> None:
    for name in "abcdefgh":
        documents = [EncodedDocument((f"{n}".encode(),), name) for n in range(20)] + make_documents(3)
        blocks = cut(documents, block_size=10**6)
        assert {len(of_split(blocks, split)) for split in SPLITS} in ({20, 3}, {21, 2})


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_too_few_documents_are_counted(count: int) -> None:
    with pytest.raises(UserError, match=f"too few documents: {count}, of which"):
        cut(make_documents(count))


def test_one_document_a_split_is_enough_where_that_is_said() -> None:
    assert len(cut(make_documents(2), least=1)) == 2


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(UserError, match="more groups"):
        cut(make_documents(20, groups=1))


def test_documents_are_not_read_far_ahead() -> None:
    read = 0

    def documents() -> Iterator[EncodedDocument]:
        nonlocal read
        for document in make_documents(1000):
            read += 1
            yield document

    blocks = blocks_from_documents(documents(), validation_share=0.1, least=2, block_size=1000)
    next(blocks)
    assert read < 30

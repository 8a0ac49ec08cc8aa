from __future__ import annotations

import inspect

import pytest

from bertjax.data.docstrings import is_document, prose

NUMPY_STYLE = """
    Return the height of a wave at a point of the
    shore, see :func:`sea.wave` or `a book <https://example.org/sea>`_ [1]_.

    .. versionadded:: 1.2

    Parameters
    ----------
    point : array_like, optional
        Where the wave is measured,
        in metres from the pier.

        .. warning:: Points on land have no wave.
    out : {None, ndarray}, optional
        A place for the result.

    See Also
    --------
    tide : The height of the tide over the day.

    Notes
    -----
    The height follows *one* formula::

        h = a * sin(k * x - w * t)
        and this is not read

    where the sea is deep. It is

    .. math:: \\omega^2 = g k

    for the others.

    Examples
    --------
    >>> height(3.0)
    array([the printed result is not read])

    A second example uses words.
"""


def test_numpy_style_becomes_english() -> None:
    assert prose(NUMPY_STYLE) == [
        "Return the height of a wave at a point of the shore, see sea.wave or a book.",
        "Where the wave is measured, in metres from the pier.",
        "Points on land have no wave.",
        "A place for the result.",
        "The height follows one formula:",
        "where the sea is deep. It is",
        "for the others.",
        "A second example uses words.",
    ]


def test_google_style_becomes_english() -> None:
    docstring = """Sails to an island.

    Args:
      boat: The boat that
        is taken.
      crew (list of str): Who is on board.

    Returns:
      Whether the island was reached.

    See also:
      - [the islands](https://example.org/islands): A list of all islands there are.

    ```
    a line of code in a fence
    ```
    """
    assert prose(docstring) == [
        "Sails to an island.",
        "boat: The boat that is taken.",
        "crew (list of str): Who is on board.",
        "Whether the island was reached.",
    ]


def test_sphinx_style_becomes_english() -> None:
    docstring = """Counts the gulls.

    :param int most: The most gulls to be counted.
    :type most: a whole number of birds
    :rtype: int
    """
    assert prose(docstring) == ["Counts the gulls.", "most: The most gulls to be counted."]


def test_items_of_a_list_are_paragraphs() -> None:
    items = "* by sea, which takes\n  longer\n* by land, on foot\n\n1. Pack bags today.\n2) Leave the house."
    assert prose(f"There are two ways:\n\n{items}") == [
        "There are two ways:",
        "by sea, which takes longer",
        "by land, on foot",
        "Pack bags today.",
        "Leave the house.",
    ]


@pytest.mark.parametrize(
    "block",
    [
        "| ship | harbour |\n| a | b |",
        "+------+------+\n| the ship | the harbour |\n+------+------+",
        "ship      harbour      captain of it",
        "x = f(y)[z] {a_b} <c> = d",
        "2 + 2 = 4, 3 * 5 = 15, 17 - 4 = 13",
        "statement ::= the grammar of it",
    ],
)
def test_what_is_not_english_is_dropped(block: str) -> None:
    assert prose(f"The first paragraph stays.\n\n{block}\n\nThe last one stays.") == [
        "The first paragraph stays.",
        "The last one stays.",
    ]


def test_a_document_has_two_sentences_and_some_length() -> None:
    sentence = "The ship left the harbour in the early morning and sailed to the north until the evening came."
    assert is_document([sentence, sentence])
    assert not is_document([sentence])
    assert not is_document(["Short. And short."])
    assert not is_document([sentence.rstrip(".") * 3])


def test_our_own_docstrings_are_read() -> None:
    assert prose(inspect.getdoc(prose) or "") == [
        "Returns the paragraphs that are English, each as one line without markup."
    ]

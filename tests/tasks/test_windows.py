from __future__ import annotations

import pytest

from bertjax.tasks.windows import Window, widest_view, windows_over


def test_windows_go_on_until_the_last_token_is_in_one() -> None:
    assert windows_over(10, 4, 3) == [Window(0, 4), Window(3, 4), Window(6, 4)]
    assert windows_over(11, 4, 3) == [*windows_over(10, 4, 3), Window(9, 2)]
    assert windows_over(4, 4, 3) == [Window(0, 4)]
    assert windows_over(0, 4, 3) == [Window(0, 0)]


@pytest.mark.parametrize("length", [1, 7, 8, 50])
@pytest.mark.parametrize("stride", [1, 3, 8, 100])
def test_every_token_is_seen_and_has_one_window_that_speaks_for_it(length: int, stride: int) -> None:
    windows = windows_over(length, 8, stride)
    seen = {token for first, size in windows for token in range(first, first + size)}
    assert seen == set(range(length))
    for token, w in enumerate(widest_view(windows, length)):
        assert 0 <= token - windows[w].first < windows[w].size


def test_the_window_that_sees_most_on_the_poorer_side_speaks() -> None:
    windows = [Window(0, 6), Window(3, 6), Window(6, 4)]
    assert widest_view(windows, 10).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert widest_view([Window(0, 0)], 0).tolist() == []

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DIFFERENCES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
ROWS = [line for line in DIFFERENCES.splitlines() if line.startswith("| ") and not line.startswith("| bertjax")]


@pytest.mark.parametrize("row", ROWS, ids=[row[2:40] for row in ROWS])
def test_every_difference_names_a_test_that_is_there(row: str) -> None:
    found = re.search(r"\| `(tests/\S+\.py)::(\w+)` \|$", row)
    assert found is not None
    assert f"def {found[2]}(" in (ROOT / found[1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|docs)/[\w/]+\.\w+|[A-Z]+\.md", README))))
def test_files_that_the_readme_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DIFFERENCES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
DEVIATIONS = DIFFERENCES.split("\n- **")[1:]


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=[text.split("**")[0] for text in DEVIATIONS])
def test_every_deviation_names_a_test(deviation: str) -> None:
    assert "::test_" in deviation


@pytest.mark.parametrize(("path", "name"), sorted(set(re.findall(r"`(tests/\S+\.py)::(\w+)`", DIFFERENCES))))
def test_tests_that_the_deviations_name_are_there(path: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:configs|docs)/[\w/]+\.\w+|[A-Z]+\.md", README))))
def test_files_that_the_readme_names_are_there(path: str) -> None:
    assert (ROOT / path).is_file()

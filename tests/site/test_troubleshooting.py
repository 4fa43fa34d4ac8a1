"""Troubleshooting quotes errors as they are: whoever searches for what the screen says finds it."""

import ast
import re

import pytest

from tests.support.docs_pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^### `(.+)`$", PAGE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return all texts of the library, with … for what is put in."""
    found: list[str] = []
    for path in sorted((ROOT / "offload").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_there_are_many():
    """The pattern finds the headings."""
    assert len(QUOTED) >= 20


@pytest.mark.parametrize("quoted", QUOTED)
def test_error_says_what_is_quoted(quoted, texts):
    """Each heading is part of a text that the library has."""
    assert any(quoted.strip("… ") in text for text in texts)

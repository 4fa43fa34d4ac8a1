"""What is below a process, however it was made."""

import sys

import pytest

from offload._child import process_tree


def test_longest_chain_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that forks deeper than Python's stack ends its worker, and not the supervisor."""
    depth = 5 * sys.getrecursionlimit()
    monkeypatch.setattr(process_tree, "children", lambda pid: [pid + 1] if pid < depth else [])
    assert process_tree.tree(1) == list(range(1, depth + 1))


def test_process_that_comes_twice_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is used again while the processes are looked at makes no endless loop."""
    monkeypatch.setattr(process_tree, "children", lambda pid: [2, 3] if pid < 3 else [1])
    assert sorted(process_tree.tree(1)) == [1, 2, 3]

"""The guarantees of the pool, by number: that each has its tests, and where they are.

`pytest -m guarantee` runs all of them, `pytest -k guarantee_3` those of one, and `scripts/stress`
repeats them until a flake would show.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.busy_machine import lines_about_the_test

ROOT = Path(__file__).parents[2]
GUARANTEES = {
    1: "The loop stays free",
    2: "The server comes first",
    3: "One task's fate is its own",
    4: "Cancelled means stopped",
    5: "You always know",
    6: "Bounded",
    7: "Nothing left behind",
    8: "Nothing lost on the way",
}


def proofs_in(body: list[ast.stmt], above: list[int]) -> Iterator[tuple[str, int]]:
    """Yield the tests of a module or class that are marked, each with its guarantee."""
    above = above + [
        number
        for statement in body
        if isinstance(statement, ast.Assign)
        and [ast.unparse(target) for target in statement.targets] == ["pytestmark"]
        for number in marks_in(statement.value)
    ]
    for statement in body:
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        marks = above + [mark for each in statement.decorator_list for mark in marks_in(each)]
        if isinstance(statement, ast.ClassDef):
            yield from proofs_in(statement.body, marks)
        elif statement.name.startswith("test_"):
            for number in marks:
                yield statement.name, number


def marks_in(expression: ast.expr) -> list[int]:
    """Return the numbers that are marked by a decorator, or by what `pytestmark` is set to."""
    return [
        ast.literal_eval(each.args[0])
        for each in ast.walk(expression)
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.guarantee"
    ]


@pytest.fixture(scope="module")
def proofs() -> dict[int, list[str]]:
    """The tests of each guarantee, as the files say: nothing is imported."""
    proofs: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, number in proofs_in(ast.parse(path.read_text()).body, []):
            proofs.setdefault(number, []).append(f"{path.stem}.{name}")
    return proofs


@pytest.mark.parametrize("number", GUARANTEES)
def test_every_guarantee_has_its_tests(proofs: dict[int, list[str]], number: int) -> None:
    """No promise without a proof that is found by its number."""
    assert len(proofs.get(number, [])) > 1


def test_no_test_proves_what_nobody_promised(proofs: dict[int, list[str]]) -> None:
    """A number that no guarantee has is a mistake."""
    assert sorted(proofs) == sorted(GUARANTEES)


def test_docs_promise_them_all() -> None:
    """What the guarantees tell a user is what is tested here, in the same words and order."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    promised = re.findall(r"^## (\d)\. (.*)$", text, re.MULTILINE)
    assert {int(number): title for number, title in promised} == GUARANTEES


# What a program gets that says nothing about priorities; here every test pool says "normal".
PRIORITIES = """
import asyncio
import os
from offload import Pool, offload
from tests.support.busy_machine import lines_about_the_test
from tests.support.functions.pool import priority

async def main():
    async with Pool("default", max_workers=1) as pool:
        assert await pool.run(priority) == (os.SCHED_IDLE, os.nice(0))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER

asyncio.run(main())
"""


@pytest.mark.guarantee(2)
def test_server_comes_first_by_default() -> None:
    """Without a word from the user, workers run only when the event loop does not want to."""
    done = subprocess.run(
        [sys.executable, "-c", PRIORITIES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (lines_about_the_test(done.stderr), done.returncode) == ("", 0)

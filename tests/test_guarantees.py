"""The guarantees of the pool, by number: that each has its tests, and where they are.

`pytest -m guarantee` runs all of them, `pytest -k guarantee_3` those of one, and `scripts/stress`
repeats them until a flake would show.
"""

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GUARANTEES = {
    1: "The loop stays free",
    2: "The server comes first",
    3: "One task's fate is its own",
    4: "Not wanted means not running",
    5: "You always know",
    6: "Bounded",
    7: "Nothing left behind",
    8: "Nothing lost on the way",
}


def proofs_in(holder: object) -> Iterator[tuple[str, list[pytest.Mark]]]:
    """Yield the tests of a module or class, with all their marks."""
    above = marks_of(holder)
    for name, found in vars(holder).items():
        if name.startswith("test_") and inspect.isfunction(found):
            yield name, above + marks_of(found)
        elif name.startswith("Test") and inspect.isclass(found):
            for each, marks in proofs_in(found):
                yield f"{name}.{each}", above + marks


def marks_of(holder: object) -> list[pytest.Mark]:
    """Return the marks that are written on a module, class or function itself."""
    marks = getattr(holder, "pytestmark", [])
    return [getattr(each, "mark", each) for each in (marks if isinstance(marks, list) else [marks])]


@pytest.fixture(scope="module")
def proofs() -> dict[int, list[str]]:
    """The tests of each guarantee."""
    proofs: dict[int, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(f"tests.{path.stem}")
        for name, marks in proofs_in(module):
            for mark in marks:
                if mark.name == "guarantee":
                    (number,) = mark.args
                    proofs.setdefault(number, []).append(f"{path.stem}.{name}")
    return proofs


@pytest.mark.parametrize("number", GUARANTEES)
def test_every_guarantee_has_its_tests(proofs: dict[int, list[str]], number: int) -> None:
    """No promise without a proof that is found by its number."""
    assert len(proofs.get(number, [])) > 1


def test_no_test_proves_what_nobody_promised(proofs: dict[int, list[str]]) -> None:
    """A number that no guarantee has is a mistake."""
    assert sorted(proofs) == sorted(GUARANTEES)


def test_readme_promises_them_all() -> None:
    """What README tells a user is what is tested here, in the same words and order."""
    (text,) = re.findall(
        r"^## Guarantees\n(.*?)^[|#]", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    promised = re.findall(r"^(\d)\. \*\*(.*?)\.\*\*", text, re.MULTILINE)
    assert {int(number): title for number, title in promised} == GUARANTEES


# What a program gets that says nothing about priorities; here every test pool says "normal".
PRIORITIES = """
import asyncio
import os
from offload import Pool, offload
from tests.pool_functions import priority

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
    assert (done.stderr, done.returncode) == ("", 0)

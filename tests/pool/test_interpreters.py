"""Interpreters within one process as workers, where there are some (Python 3.14 and later).

What they have in common with other workers is in `test_contract.py`.
"""

import subprocess
import sys

import pytest

from offload import Pool
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="InterpreterPoolExecutor is new in Python 3.14"
)

PROGRAM = """
import asyncio
import os
import sys
from concurrent.futures import InterpreterPoolExecutor
from concurrent.interpreters import get_current

from offload import Pool, offload

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "beside"))
import helper

made_by = {
    "itself": lambda: InterpreterPoolExecutor,
    "for each": lambda: lambda: InterpreterPoolExecutor(1),
    "shared": lambda: InterpreterPoolExecutor(2),
}


@offload
def double(number):
    return helper.double(number), os.getpid(), get_current().id


@offload
def twice(number):
    return double(double(number)[0])[0]


@offload
def fail(number):
    raise helper.OddError(number, hint="odd")


async def main():
    executor = made_by[sys.argv[1]]()
    async with Pool("default", max_workers=2, executor=executor) as pool:
        doubled, pid, interpreter = await double(21)
        assert (doubled, pid) == (42, os.getpid())
        assert interpreter != get_current().id
        both = await asyncio.gather(double(1), double(2))
        assert [each[0] for each in both] == [2, 4]
        assert await twice(3) == 12
        try:
            await fail(1)
        except helper.OddError as error:
            assert error.hint == "odd"
        else:
            raise AssertionError
        used = {each[2] for each in await double.map(range(20))}
        assert len(used) <= 2, used
    if sys.argv[1] == "shared":
        executor.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
    print("done")
"""
HELPER = """
class OddError(Exception):
    def __init__(self, number, *, hint):
        super().__init__(number)
        self.hint = hint


def double(number):
    return 2 * number
"""


@pytest.mark.parametrize("way", ["itself", "for each", "shared"])
def test_interpreters_find_what_the_program_has(tmp_path, way):
    """Functions of `__main__` and of a folder that the program added; one interpreter a worker."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "helper.py").write_text(HELPER)
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "program.py", way],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("option", [{"initializer": print}, {"preload": ["json"]}])
def test_what_interpreters_would_have_to_be_told_is_refused(option):
    """Their initializer is the executor's own, and they share no memory to preload."""
    from concurrent.futures import InterpreterPoolExecutor

    with pytest.raises(ValueError, match="give it to the InterpreterPoolExecutor yourself"):
        Pool("refused", executor=InterpreterPoolExecutor, **option)

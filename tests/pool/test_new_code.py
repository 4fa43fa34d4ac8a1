"""Code that changes while a pool runs: the next call runs what the caller has, or it is told."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from offload import Pool
from tests.support.processes import until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

MODULE = """
from offload import offload
from new_code_helper import version as of_helper
import new_code_helper

VERSION = {version!r}

@offload(pool="new code")
def version(_):
    return VERSION, of_helper(), new_code_helper.version()

def plain(_):
    return VERSION
"""
HELPER = "def version():\n    return {version!r}\n"


class Program:
    """Two modules that can be written anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seconds = 1_700_000_000
        self.write("one")

    def write(self, version: str, *names: str) -> None:
        """Write a version of the modules of these names, or of both, with a later time each."""
        for name, text in (("new_code_helper", HELPER), ("new_code", MODULE)):
            if name in (names or (name,)):
                path = self.folder / f"{name}.py"
                path.write_text(text.format(version=version))
                self._seconds += 10
                os.utime(path, (self._seconds, self._seconds))
        importlib.invalidate_caches()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """Return the program, importable here and in workers."""
    monkeypatch.syspath_prepend(tmp_path)
    yield Program(tmp_path)
    for name in ("new_code", "new_code_helper"):
        sys.modules.pop(name, None)


def loaded(name: str = "new_code") -> ModuleType:
    """Import a module of the program."""
    return importlib.import_module(name)


def pool_of(**options: Any) -> Pool:
    """Return the pool of the program's functions."""
    return Pool("new code", os_priority="normal", **options)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_reloaded_module_is_what_the_next_call_runs(program: Program, method: str) -> None:
    """After `importlib.reload` no worker runs the old code any more, of a helper neither."""
    module = loaded()
    async with pool_of(max_workers=2, min_workers=2, start_method=method):
        assert await module.version(1) == ("one", "one", "one")
        program.write("two", "new_code_helper")
        importlib.reload(loaded("new_code_helper"))
        assert await module.version(1) == ("one", "two", "two")
        program.write("three")
        importlib.reload(loaded("new_code_helper"))
        importlib.reload(module)
        assert set(await module.version.map(range(4))) == {("three", "three", "three")}


async def test_reloaded_module_that_is_preloaded_is_loaded_anew(program: Program) -> None:
    """What workers share is loaded again as well, and the pool goes on."""
    module = loaded()
    async with pool_of(max_workers=1, preload=["new_code"]) as pool:
        assert await pool.run(module.plain, 1) == "one"
        program.write("two")
        importlib.reload(module)
        assert await pool.run(module.plain, 1) == "two"


async def test_reload_lets_running_calls_end(program: Program, tmp_path: Path) -> None:
    """A worker that is busy ends its call with the code that it began with."""
    from tests.support.functions import executor as functions

    module = loaded()
    async with pool_of(max_workers=1) as pool:
        call = asyncio.create_task(pool.run(functions.wait_for, tmp_path / "go", 5))
        await until(lambda: pool.statistics().busy == 1)
        program.write("two")
        importlib.reload(loaded("new_code_helper"))
        (tmp_path / "go").touch()
        assert await call == 5
        assert await module.version(1) == ("two", "two", "two")


async def test_code_that_was_replaced_on_disk_is_told_once(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that starts with other code than the server has is a warning that names the file."""
    module = loaded()
    with caplog.at_level(logging.WARNING, "offload.workers"):
        async with pool_of(max_workers=1, spare_workers=0, max_tasks_per_worker=1) as pool:
            assert await pool.run(module.plain, 1) == "one"
            assert not caplog.records
            program.write("two", "new_code_helper")
            for _ in range(3):
                await pool.run(module.plain, 1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1, told
    assert "new_code_helper.py changed on disk" in told[0]


async def test_function_that_is_sent_by_value_is_so_as_it_is_now(
    new_pool: Callable[..., Pool],
) -> None:
    """A cell of a notebook that is run again changes what the functions of others call."""
    pytest.importorskip("cloudpickle")
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    cells = sys.modules["__main__"].__dict__

    def run(cell: str) -> None:
        exec(cell, cells)  # noqa: S102 - as a notebook does

    try:
        pool = new_pool(max_workers=1)
        cells["pool"] = pool
        run("from offload import offload\nRATES = [10]\ndef tax(n):\n    return n * RATES[0]")
        run("@offload(pool=pool)\ndef bill(n):\n    return n + tax(n)")

        assert await cells["bill"](1) == 11
        run("def tax(n):\n    return n * RATES[0] * 2")
        assert await cells["bill"](1) == 21
        run("RATES[0] = 100")
        assert await cells["bill"](1) == 201
        run("class Rate:\n    value = 7\ndef tax(n):\n    return n * Rate.value")
        assert await pool.run(cells["bill"], 1) == 8
        run("Rate.value = 8")
        assert await cells["bill"].map([1]) == [9]
        await pool.aclose()
    finally:
        sys.modules["__main__"] = main

"""Code that changes while a pool runs: the next call runs what the caller has, or it is told."""

import asyncio
import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from offload import Pool
from tests.support import inside
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
        await source_is_kept()
        program.write("two")
        importlib.reload(loaded("new_code_helper"))
        (tmp_path / "go").touch()
        assert await call == 5
        assert await module.version(1) == ("one", "two", "two")


def told_by(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was said of code on disk."""
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if "changed on disk" in message]


async def source_is_kept() -> None:
    """Wait until the source of all that this process has imported has been read."""
    await until(inside.keeps_code)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("preload", [[], ["new_code"]], ids=["imports", "preloads"])
async def test_code_that_was_replaced_on_disk_waits_for_the_restart(
    program: Program, method: str, preload: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Workers that start later run what the server runs; that is told once for each change."""
    module = loaded()
    options: dict[str, Any] = {"start_method": method, "preload": preload}
    with caplog.at_level(logging.WARNING, "offload.workers"):
        async with pool_of(max_workers=1, spare_workers=0, max_tasks_per_worker=1, **options):
            assert await module.version(1) == ("one", "one", "one")
            await source_is_kept()
            assert not told_by(caplog)
            program.write("two")
            for _ in range(3):
                assert await module.version(1) == ("one", "one", "one")
            (program.folder / "new_code.py").write_text("import nothing_of_this_name\n")
            assert await module.version(1) == ("one", "one", "one")
            assert await module.version(1) == ("one", "one", "one")
    told = told_by(caplog)
    assert len(told) == 2, told
    assert "new_code_helper.py" in told[0]
    assert "new_code.py" in told[0]
    assert "its workers run what it has imported. Restart it" in told[0]


async def test_preloaded_code_is_kept_for_the_next_supervisor(program: Program) -> None:
    """A supervisor that takes the place of one that was killed loads what the server has."""
    module = loaded()
    async with pool_of(max_workers=1, preload=["new_code"]) as pool:
        assert await pool.run(module.plain, 1) == "one"
        await source_is_kept()
        program.write("two")
        pid = inside.supervisor_pid(pool)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: inside.supervisor_pid(pool) != pid)
        assert await pool.run(module.plain, 1) == "one"


async def test_reload_of_one_module_leaves_the_others_as_they_are(program: Program) -> None:
    """What was reloaded is new in workers, what was not is old, as in the server."""
    module = loaded()
    async with pool_of(max_workers=1):
        assert await module.version(1) == ("one", "one", "one")
        await source_is_kept()
        program.write("two")
        importlib.reload(loaded("new_code_helper"))
        # `of_helper` was taken out of the helper before, here; in the worker it is the new one.
        assert await module.version(1) == ("one", "two", "two")
        await source_is_kept()
        program.write("three")
        importlib.reload(module)
        assert await module.version(1) == ("three", "two", "two")


async def test_module_that_is_imported_anew_is_what_workers_run(program: Program) -> None:
    """Also where nothing tells of it: it was removed from `sys.modules`."""
    module = loaded()
    async with pool_of(max_workers=1, max_tasks_per_worker=1) as pool:
        assert await pool.run(module.plain, 1) == "one"
        await source_is_kept()
        program.write("two")
        del sys.modules["new_code"]
        module = loaded()
        assert module.VERSION == "two"
        await pool.run(module.plain, 1)  # by the worker that is there, perhaps
        assert await pool.run(module.plain, 1) == "two"


async def test_package_whose_files_are_gone_goes_on(program: Program) -> None:
    """A deployment that moves the program's folder away takes nothing from workers."""
    folder = program.folder / "new_code_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("from new_code_package.part import VALUE\n")
    (folder / "part.py").write_text("VALUE = 1\ndef value(_):\n    return VALUE\n")
    importlib.invalidate_caches()
    part = loaded("new_code_package.part")
    try:
        async with pool_of(max_workers=1, max_tasks_per_worker=1) as pool:
            assert await pool.run(part.value, 1) == 1
            await source_is_kept()
            folder.rename(program.folder / "away")
            for _ in range(2):
                assert await pool.run(part.value, 1) == 1
    finally:
        for name in ("new_code_package", "new_code_package.part"):
            sys.modules.pop(name, None)


async def test_traceback_shows_the_code_that_ran(program: Program) -> None:
    """The lines of a traceback are those of the kept source."""
    path = program.folder / "new_code.py"
    path.write_text("def fail():\n    raise ValueError('old')  # the old line\n")
    module = loaded()
    async with pool_of(max_workers=1, spare_workers=0, max_tasks_per_worker=1) as pool:
        for change in (False, True):
            if change:
                path.write_text("def fail():\n    return 'new'  # a new line\n")
            with pytest.raises(ValueError, match="old") as caught:
                await pool.run(module.fail)
            assert "# the old line" in str(caught.value.__cause__)
            await source_is_kept()


async def test_change_of_what_was_not_kept_is_told(
    program: Program, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source was too large to keep, new workers run the new code, and it is said so."""
    monkeypatch.setattr("offload._workers.code_on_disk._MOST_BYTES", 10)
    module = loaded()
    with caplog.at_level(logging.WARNING, "offload.workers"):
        async with pool_of(max_workers=1, spare_workers=0, max_tasks_per_worker=1) as pool:
            assert await pool.run(module.plain, 1) == "one"
            await source_is_kept()
            program.write("two", "new_code_helper")
            for _ in range(3):
                await pool.run(module.plain, 1)
    told = told_by(caplog)
    assert len(told) == 1, told
    assert "new_code_helper.py changed on disk" in told[0]
    assert "new workers run the new code, while" in told[0]


SCRIPT = """
import asyncio, pathlib, time
from offload import Pool, offload

VERSION = "one"

@offload(pool="script")
def version():
    return VERSION

async def main():
    async with Pool("script", max_workers=1, max_tasks_per_worker=1) as pool:
        first = await version()
        time.sleep(0.5)
        path = pathlib.Path(__file__)
        path.write_text(path.read_text().replace('VERSION = "one"', 'VERSION = "second"'))
        print(first, await version(), await version())

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.parametrize("how", [["script.py"], ["-m", "script"]], ids=["script", "module"])
async def test_main_script_that_was_replaced_waits_for_the_restart(
    tmp_path: Path, how: list[str]
) -> None:
    """The program's own file is code as any other."""
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = await anyio.run_process([sys.executable, *how], cwd=tmp_path, stderr=None)
    assert ended.stdout.decode().split() == ["one", "one", "one"]


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


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_worker_cannot_change_the_code_of_others(
    new_pool: Callable[..., Pool], method: str
) -> None:
    """What a function does with the log of the program's code costs nobody anything."""
    from tests.support.functions import intruders

    async with new_pool(max_workers=1, start_method=method) as pool:
        assert await pool.run(intruders.change_kept_code) == []

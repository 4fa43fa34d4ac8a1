"""`offload.resources`: loaded once, shared by all workers, and gone with them."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import Pool, WorkerStartError
from offload._bench.machine import pss_bytes
from offload.resources import resource
from tests.support.functions import pool as pool_functions
from tests.support.functions import resources as functions
from tests.support.processes import PATIENCE, gone, until

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

# What was noted until now, a line for each time.
Notes = Callable[[], list[str]]
TABLE = "tests.support.functions.resources:table"
MIB = 2**20
ROOT = Path(__file__).parents[2]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Return what was noted until now, whenever it is called."""
    path = tmp_path / "notes"
    path.touch()
    monkeypatch.setenv("RESOURCE_NOTES", str(path))
    return lambda: path.read_text().splitlines()


async def all_of(pool: Pool, count: int, function: Any) -> list[Any]:
    """Return what `count` workers, each with one call, returned."""
    found: list[Any] = []

    async def call() -> None:
        found.append(await pool.run(function))

    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(call)
    return found


async def test_preloaded_once_for_all_workers(notes: Notes) -> None:
    """However many workers there are, it is loaded once, by none of them, before the first task."""
    async with Pool("resources", min_workers=3, max_workers=3, preload=[TABLE]) as pool:
        seen = await all_of(pool, 12, functions.loader)
    [loaded] = notes()
    assert {f"loaded {loader}" for loader, _, _ in seen} == {loaded}
    assert all(loader != worker and was_loaded for loader, worker, was_loaded in seen)


async def test_loaded_at_first_use_where_it_is_not_preloaded(notes: Notes) -> None:
    """Each worker loads it once, at the first call that needs it."""
    async with Pool("resources", max_workers=1, spare_workers=0) as pool:
        await pool.run(pool_functions.pid)
        assert notes() == []
        seen = [await pool.run(functions.loader) for _ in range(3)]
    assert [was_loaded for _, _, was_loaded in seen] == [False, True, True]
    assert len(notes()) == 1


async def test_spawned_workers_load_it_before_their_first_task(notes: Notes) -> None:
    """Where nothing can be shared by a fork, each worker has its own, in time."""
    async with Pool(
        "resources", max_workers=1, spare_workers=0, preload=[TABLE], start_method="spawn"
    ) as pool:
        loader, worker, was_loaded = await pool.run(functions.loader)
    assert (loader == worker, was_loaded) == (True, True)
    assert len(notes()) == 1


async def test_workers_share_its_memory(notes: Notes) -> None:
    """Three workers that have read 32 MiB weigh one copy of it together."""
    del notes
    async with Pool("resources", min_workers=3, max_workers=3, preload=[TABLE]) as pool:
        assert await all_of(pool, 12, functions.total) == [32 * MIB / 8] * 12
        pids = [worker.pid for worker in pool.statistics().workers if worker.pid is not None]
        assert len(pids) >= 3
        assert sum(map(pss_bytes_of, pids)) < 32 * MIB + len(pids) * 16 * MIB


def pss_bytes_of(pid: int) -> int:
    """Return the PSS of one process."""
    return pss_bytes([pid])


async def test_writing_stays_in_the_worker(notes: Notes) -> None:
    """What one worker does to it no other sees, nor a later worker."""
    del notes
    async with Pool("resources", max_workers=1, spare_workers=0, preload=[TABLE]) as pool:
        assert await pool.run(functions.add, 5) == 6
        assert await pool.run(functions.add, 0) == 6
        pid = await pool.run(pool_functions.pid)
        assert pool.recycle(pid)
        assert await pool.run(functions.add, 0) == 1


async def test_new_version_comes_with_a_new_opening(notes: Notes) -> None:
    """Closing frees it, and opening again loads it anew."""
    pool = Pool("resources", max_workers=1, preload=[TABLE])
    for count in (1, 2):
        async with pool:
            await pool.run(functions.loader)
        assert len(notes()) == count


async def test_threads_of_a_task_load_it_once(notes: Notes) -> None:
    """A lock makes the others wait for the first."""
    async with Pool("resources", max_workers=1) as pool:
        assert await pool.run(functions.load_in_threads) == 1
    assert len(notes()) == 1


async def test_as_an_argument_it_crosses_as_its_name(notes: Notes) -> None:
    """Neither loaded here nor sent: the worker's own is what arrives."""
    assert len(pickle.dumps(functions.table)) < 150
    async with Pool("resources", max_workers=1) as pool:
        loader, worker = await pool.run(functions.loader_of, functions.table)
    assert loader == worker
    assert not functions.table.is_loaded
    assert len(notes()) == 1


async def test_failure_to_preload_is_a_failure_to_start(notes: Notes) -> None:
    """The pool does not open, and the error has the traceback of the function."""
    del notes
    pool = Pool("resources", max_workers=1, preload=["tests.support.functions.resources:broken"])
    with pytest.raises(WorkerStartError, match="the model is not there"):
        await pool.open()
    await pool.aclose()


@pytest.mark.parametrize("name", ["not_a_resource", "nothing_there", "loader"])
async def test_preloading_something_else_is_a_failure_to_start(name: str) -> None:
    """A name that is no resource is said to be none."""
    pool = Pool("resources", max_workers=1, preload=[f"tests.support.functions.resources:{name}"])
    with pytest.raises(WorkerStartError, match=name):
        await pool.open()
    await pool.aclose()


async def test_failure_at_first_use_is_tried_again(notes: Notes) -> None:
    """The call gets the error of the function, and the next one another attempt."""
    async with Pool("resources", max_workers=1) as pool:
        for _ in range(2):
            with pytest.raises(LookupError, match="not there"):
                await pool.run(functions.use_broken)
    assert notes() == ["tried"] * 2


async def test_here_it_is_loaded_when_called_and_can_be_cleared(notes: Notes) -> None:
    """Inline, in the server or in a test, it works as in a worker."""
    assert repr(functions.table) == f"<resource {TABLE} not loaded>"
    try:
        assert functions.table() is functions.table()
        assert repr(functions.table) == f"<resource {TABLE} loaded>"
        assert functions.table.__doc__ == "Load a table of numbers, and tell who did."
    finally:
        functions.table.clear()
    assert not functions.table.is_loaded
    assert len(notes()) == 1


async def test_server_that_dies_while_it_is_loaded_leaves_nobody(notes: Notes) -> None:
    """Loading may take minutes; who does it ends with the server all the same."""
    code = (
        "import asyncio; from offload import Pool;"
        "asyncio.run(Pool('slow', preload=['tests.support.functions.resources:slow']).open())"
    )
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)  # noqa: ASYNC220
    try:
        await until(notes)
    finally:
        server.kill()
        server.wait()
    await gone(int(notes()[0]), seconds=PATIENCE)


async def test_what_a_worker_cannot_import_is_refused() -> None:
    """Lambdas and local functions have no name to load them by."""

    def local() -> int:
        return 1

    for function in (local, lambda: 1):
        with pytest.raises(TypeError, match="by name"):
            resource(function)

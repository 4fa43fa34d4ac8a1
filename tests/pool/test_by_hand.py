"""Tasks that are killed, workers that are recycled, and pools that are drained by hand."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from offload import Pool, PoolClosedError, TaskKilledError
from tests.support import inside
from tests.support.functions import pool as pool_functions
from tests.support.processes import Fifo, gone, until

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: all of this is the same on every one."""
    return "asyncio"


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """One worker, so that what waits is known."""
    pool = Pool("books", max_workers=1, max_queued=1, os_priority="normal")
    async with pool:
        yield pool
    inside.forget(pool)


def account(pool: Pool, function: Callable[..., Any]) -> Any:
    """Return what a pool knows of one function."""
    name = f"{function.__module__}:{function.__qualname__}"
    return next(each for each in pool.statistics().functions if each.name == name)


async def worker_of(pool: Pool, state: str) -> int:
    """Return the process id of the worker in this state, when there is one."""

    def found() -> list[int]:
        return [each.pid for each in pool.statistics().workers if each.state == state and each.pid]

    await until(found)
    return found()[0]


async def test_task_stopped_by_hand_tells_its_caller(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`kill_task` ends one task; its caller hears who did it, and the pool goes on."""
    entered, gate = fifo("entered"), fifo("gate")
    errors: list[TaskKilledError] = []

    async def call() -> None:
        with pytest.raises(TaskKilledError) as caught:
            await pool.run(pool_functions.hold, entered.path, gate.path)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.kill_task(pid)
    assert errors[0].pid == pid
    assert "ran in part" in str(errors[0])
    await gone(pid)
    assert await pool.run(pool_functions.echo, 1) == 1
    assert account(pool, pool_functions.hold).cancelled == 1
    assert not pool.kill_task(pid)


async def test_idle_worker_is_recycled_at_once(pool: Pool) -> None:
    """`recycle` of a worker that does nothing ends it and starts another in its place."""
    pid = await worker_of(pool, "idle")
    before = pool.statistics()
    assert pool.recycle(pid)
    await gone(pid)
    await until(lambda: len(pool.statistics().workers) == len(before.workers))
    assert pool.statistics().recycled == 1
    assert not pool.recycle(pid)


async def test_busy_worker_is_recycled_after_its_task(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`recycle` of a worker that runs a task lets the task end first."""
    entered, gate = fifo("entered"), fifo("gate")
    results: list[tuple[None, int]] = []

    async def call() -> None:
        results.append(await pool.run(pool_functions.hold, entered.path, gate.path))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.recycle(pid)
        (worker,) = [each for each in pool.statistics().workers if each.pid == pid]
        assert (worker.state, worker.recycling) == ("busy", True)
        gate.let()
    assert results == [(None, pid)]
    await gone(pid)
    assert await pool.run(pool_functions.pid) != pid


async def test_drain_by_hand_refuses_new_calls_until_opened(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`drain` lets what is there end, refuses what is new, and `open` takes it back."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        pool.stop_accepting()
        assert pool.statistics().state == "draining"
        with pytest.raises(PoolClosedError):
            await pool.run(pool_functions.echo, 1)
        gate.let()
    assert account(pool, pool_functions.hold).completed == 1
    await pool.open()
    assert await pool.run(pool_functions.echo, 1) == 1


async def test_by_hand_nothing_happens_to_a_pool_that_is_not_open() -> None:
    """A pool without workers has nothing to stop, and says so."""
    pool = Pool("not open")
    try:
        pool.stop_accepting()
        assert not pool.kill_task(1)
        assert not pool.recycle(1)
        assert pool.statistics().state == "new"
        assert pool in Pool.all()
    finally:
        inside.forget(pool)

"""What a pool tells of its functions and their failures."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from offload import (
    DeadlineError,
    Pool,
    QueueFullError,
    TaskTimeoutError,
    WorkerCrashedError,
    offload,
)
from tests.support import inside
from tests.support.functions import observers as observed
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, Fifo, until

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


async def test_functions_have_accounts_of_their_own(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """Calls, times and what went wrong are counted by function, and add up to the pool's."""
    report = fifo("report")
    for number in range(3):
        assert await offload(pool=pool)(pool_functions.echo)(number) == number
    with pytest.raises(ZeroDivisionError):
        await pool.run(pool_functions.run_fault, "raise", report.path)
    with pytest.raises(WorkerCrashedError):
        await pool.run(pool_functions.run_fault, "SIGKILL", report.path)

    echoes, faults = account(pool, pool_functions.echo), account(pool, pool_functions.run_fault)
    assert (echoes.completed, echoes.failed, echoes.wait.count, echoes.run.count) == (3, 0, 3, 3)
    assert (faults.completed, faults.failed, faults.crashed, faults.run.count) == (0, 1, 1, 1)
    whole = pool.statistics()
    assert (whole.completed, whole.failed, whole.crashed) == (3, 1, 1)
    assert whole.run.count == 4
    assert whole.run.total == pytest.approx(echoes.run.total + faults.run.total)
    assert whole.opened_at > 1.7e9
    assert (whole.max_queued, whole.max_queued_bytes) == (1, 256 * 2**20)


async def test_waiting_and_running_are_told_by_function(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """Who looks sees which function holds the workers, and which ones wait for them."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
        await entered.heard()
        group.start_soon(pool.run, pool_functions.echo, 1)
        await until(lambda: pool.statistics().queued == 1)
        held, waits = account(pool, pool_functions.hold), account(pool, pool_functions.echo)
        assert (held.running, held.queued) == (1, 0)
        assert (waits.running, waits.queued) == (0, 1)
        with pytest.raises(QueueFullError):
            await pool.run(pool_functions.echo, 2)
        assert account(pool, pool_functions.echo).refused == 1
        gate.let()
    assert account(pool, pool_functions.echo).completed == 1


async def test_last_failures_are_kept_with_their_tracebacks(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """Each failure is kept: what, when, of which worker; a cancelled call is none."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    pid = await pool.run(pool_functions.pid)
    with pytest.raises(ZeroDivisionError):
        await offload(pool=pool)(pool_functions.run_fault)("raise", report.path)
    with pytest.raises(TaskTimeoutError):
        await offload(pool=pool, timeout=0.05)(pool_functions.hold)(entered.path, gate.path)
    with anyio.move_on_after(0) as scope:
        await pool.run(pool_functions.hold, entered.path, gate.path)
    assert scope.cancelled_caught
    with pytest.raises(DeadlineError):
        await offload(pool=pool, deadline=1.0)(pool_functions.echo)(1)

    failed, timed_out, too_late = pool.statistics().failures
    assert (failed.kind, failed.error, failed.message) == (
        "failed",
        "ZeroDivisionError",
        "by intent",
    )
    assert failed.pid == pid
    assert "in run_fault" in failed.traceback
    assert failed.at == pytest.approx(timed_out.at, abs=PATIENCE)
    assert (timed_out.kind, timed_out.error) == ("timed_out", "TaskTimeoutError")
    assert timed_out.function == "tests.support.functions.pool:hold"
    assert (too_late.kind, too_late.traceback, too_late.pid) == ("not_started", "", None)


async def test_failures_do_not_grow_without_end(pool: Pool) -> None:
    """A function that always fails costs the memory of its last fifty failures."""
    fail = offload(pool=pool)(observed.fail)
    for _ in range(60):
        with pytest.raises(ZeroDivisionError):
            await fail()
    failures = pool.statistics().failures
    assert len(failures) == 50
    assert account(pool, observed.fail).failed == 60

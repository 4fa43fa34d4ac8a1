"""Workers that get no CPU time: nothing fails, so that somebody has to say it."""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import anyio
import psutil
import pytest

from offload import Pool
from offload._cpu_time import schedstat
from offload._decisions.starvation import ThreadTime
from tests.support import inside
from tests.support.busy_machine import BUSY_MACHINE, is_about_the_test
from tests.support.functions import starved as functions
from tests.support.functions.pool import hold, pid
from tests.support.processes import Fifo, until

NewPool = Callable[..., Pool]
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(
        schedstat(Path("/proc/self/schedstat").read_bytes())[0] is None
        if sys.platform.startswith("linux")
        else True,
        reason="needs schedstat",
    ),
]
# The looks are the keeper's, whatever the event loop.
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(autouse=True)
def hear_of_busy_machine() -> Iterator[None]:
    """Have it logged that workers get no CPU time, which other tests are not about."""
    logger = logging.getLogger("offload.pool")
    logger.removeFilter(is_about_the_test)
    yield
    logger.addFilter(is_about_the_test)


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """Keep every CPU busy, at normal priority, in our session."""
    count = 2 * len(os.sched_getaffinity(0))
    code = "print(flush=True)\nwhile True: pass"
    busy = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(count)
    ]
    try:
        for each in busy:
            assert each.stdout is not None
            each.stdout.readline()
        yield
    finally:
        for each in busy:
            each.kill()
        for each in busy:
            each.wait()
            assert each.stdout is not None
            each.stdout.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what the pool has said of CPU time."""
    return [each for each in caplog.records if BUSY_MACHINE in each.getMessage()]


def demote(pid: int) -> None:
    """Give a worker that runs the priority "idle".

    One that had it from the start would starve beside other tests before it runs anything.
    """
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


@ASYNCIO
@pytest.mark.parametrize("compute", [functions.compute, functions.compute_in_thread])
async def test_worker_that_starves_is_told_once(
    new_pool: NewPool,
    entered: Fifo,
    caplog: pytest.LogCaptureFixture,
    compute: Callable[[str], None],
) -> None:
    """At priority "idle", beside busy processes: log and statistics say it, as long as it lasts."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, compute, entered.path)
            worker = await entered.heard()
            with neighbours():
                demote(worker)
                await until(lambda: warnings(caplog) and pool.statistics().starved_workers)
                now = pool.statistics()
                # Two more looks that find the same.
                await until(lambda: pool.statistics().starved_seconds > now.starved_seconds + 1.5)
            group.cancel_scope.cancel()
        after = pool.statistics()

    assert [(each.pid, each.starved) for each in now.workers] == [(worker, True)]
    assert now.starved_seconds >= 0.5
    assert after.starved_workers == 0
    (told,) = warnings(caplog)
    assert (told.name, told.levelno) == ("offload.pool", logging.WARNING)
    assert f"workers of pool {pool.name!r}" in told.getMessage()
    assert compute.__qualname__ in told.getMessage()
    assert (told.__dict__["offload_pool"], told.__dict__["offload_pid"]) == (pool.name, worker)
    assert pool.statistics().starved_seconds >= after.starved_seconds  # the books outlive it


@ASYNCIO
async def test_worker_that_cannot_even_start_is_told(
    new_pool: NewPool, caplog: pytest.LogCaptureFixture
) -> None:
    """Imports need CPU time as well: whoever waits for the first worker learns what it is about."""
    pool = new_pool(max_workers=1, spare_workers=0, os_priority="idle")
    with neighbours():
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.compute, os.devnull)
            await until(lambda: warnings(caplog))
            group.cancel_scope.cancel()
    await pool.aclose(drain=0)

    assert 'Set os_priority="normal"' in warnings(caplog)[0].getMessage()


@ASYNCIO
async def test_fair_share_is_no_starvation(new_pool: NewPool, entered: Fifo) -> None:
    """At normal priority a busy machine makes calls slower, in proportion, and nothing is told.

    Not before a worker gets less than a twentieth of what it could use, which others than our
    neighbours may bring about: then it is no more than what the kernel says.
    """
    seen = []
    async with (
        new_pool(max_workers=1, spare_workers=0) as pool,
        anyio.create_task_group() as group,
    ):
        group.start_soon(pool.run, functions.compute, entered.path)
        worker = await entered.heard()
        with neighbours():
            for _ in range(3):
                before, counted = times(worker), pool.statistics().starved_seconds
                await anyio.sleep(2.2)  # two looks at least
                ran, waited = (now - then for now, then in zip(times(worker), before, strict=True))
                seen.append((ran, waited, pool.statistics().starved_seconds - counted))
                if ran > 0.3 * (ran + waited):
                    break
        group.cancel_scope.cancel()

    for ran, waited, starved in seen:
        # What was told may have begun before the first look, and the last wait be not over.
        most = 0.0 if ran > 0.3 * (ran + waited) else waited + 2.0
        assert starved <= most, seen


@ASYNCIO
async def test_task_that_waits_is_not_starved(new_pool: NewPool, entered: Fifo, gate: Fifo) -> None:
    """At priority "idle", beside busy processes: who needs no CPU time lacks none."""
    async with new_pool(max_workers=1, spare_workers=0) as pool, anyio.create_task_group() as group:
        looks = inside.count_looks(pool)
        group.start_soon(pool.run, hold, entered.path, gate.path)
        worker = await entered.heard()
        # At its gate: until then it does need a CPU.
        await until(lambda: psutil.Process(worker).status() == psutil.STATUS_SLEEPING)
        demote(worker)
        with neighbours():
            # The first is about what came before.
            first = looks()
            await until(lambda: looks() > first + 1)
            before = pool.statistics()
            await until(lambda: looks() > first + 3)
            after = pool.statistics()
        gate.let()

    assert after.starved_workers == 0
    assert after.starved_seconds == before.starved_seconds


@ASYNCIO
async def test_nobody_looks_at_a_pool_that_has_nothing_to_do(new_pool: NewPool) -> None:
    """An idle pool costs nothing: the looks end with the last task."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        looks = inside.count_looks(pool)
        await pool.run(pid)
        await until(lambda: looks() > 0 and not inside.is_to_look(pool))


@pytest.mark.parametrize("priority", ["idle", "low", "normal"])
@ASYNCIO
async def test_advice_is_that_of_the_priority(
    new_pool: NewPool, entered: Fifo, gate: Fifo, caplog: pytest.LogCaptureFixture, priority: str
) -> None:
    """What to set depends on what is set, and so does the place to look for the culprit."""
    starving = count(0.0, 5.0)
    async with new_pool(max_workers=1, spare_workers=0) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.run, hold, entered.path, gate.path)
        await entered.heard()
        caplog.clear()
        inside.pretend_times(
            pool, priority, lambda pid: {pid: ThreadTime(1.0, next(starving), 0, True)}
        )
        await until(lambda: warnings(caplog))
        gate.let()

    told = warnings(caplog)[0].getMessage()
    assert ('Set os_priority="normal"' in told) is (priority != "normal")
    assert ("max_workers" in told) is (priority == "normal")


@ASYNCIO
async def test_quota_that_stops_all_is_told(
    new_pool: NewPool, entered: Fifo, gate: Fifo, caplog: pytest.LogCaptureFixture
) -> None:
    """No priority helps against it: the log names the quota, and the statistics count it."""
    throttled = count(0.0, 0.9)
    async with new_pool(max_workers=1, spare_workers=0) as pool, anyio.create_task_group() as group:
        group.start_soon(pool.run, hold, entered.path, gate.path)
        await entered.heard()
        inside.pretend_throttled(pool, lambda: next(throttled))
        await until(lambda: pool.statistics().throttled_seconds > 1.5)
        gate.let()

    (told,) = [each for each in caplog.records if "quota" in each.getMessage()]
    assert told.name == "offload.pool"
    assert "cpu.max" in told.getMessage()


def times(pid: int) -> tuple[float, float]:
    """Return seconds that a process ran, and that it waited for a CPU."""
    ran, waited = schedstat(Path(f"/proc/{pid}/schedstat").read_bytes())
    assert ran is not None
    assert waited is not None
    return ran, waited

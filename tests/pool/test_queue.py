"""The wait queue: its limits, its order, and how long a call stays in it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from offload import Pool, QueueFullError, QueueTimeoutError, offload
from tests.support import inside
from tests.support.calls import Held
from tests.support.functions import pool as pool_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, parent_of, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


def only_pid(pool: Pool) -> int:
    """Return the process id of the pool's one worker."""
    (worker,) = pool.statistics().workers
    assert worker.pid is not None
    return worker.pid


@pytest.mark.guarantee(6)
@pytest.mark.anyio
async def test_full_by_count(new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo) -> None:
    """Past `max_queued` a call is refused at once, and did not run."""
    async with new_pool(max_workers=1, max_queued=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            with pytest.raises(QueueFullError, match="did not run") as caught:
                await pool.run(pool_functions.pid)
            gate.let(2)
        assert caught.value.limit == "max_queued"
        assert pool.statistics().refused == 1
        assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.anyio
async def test_no_queue_at_all(new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo) -> None:
    """With `max_queued=0` a call runs at once, or is refused; the first waits for its worker."""
    pool = new_pool(max_workers=1, max_queued=0)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        await held.start()
        with pytest.raises(QueueFullError):
            await pool.run(pool_functions.pid)
        gate.let()
    assert await pool.run(pool_functions.echo, 1) == 1
    await pool.aclose()


@pytest.mark.guarantee(6)
@pytest.mark.anyio
@pytest.mark.parametrize("size", [3000, 300_000])
async def test_full_by_bytes(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, size: int
) -> None:
    """Past `max_queued_bytes` of waiting arguments a call is refused; small ones still fit."""
    async with new_pool(max_workers=1, max_queued_bytes=2 * size) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(pool.run, pool_functions.length, bytes(size))
            await until(lambda: pool.statistics().queued_bytes >= size)
            with pytest.raises(QueueFullError) as caught:
                await pool.run(pool_functions.length, bytes(size))
            group.start_soon(pool.run, pool_functions.length, b"")
            await until(lambda: pool.statistics().queued == 2)
            gate.let()
        assert caught.value.limit == "max_queued_bytes"
        now = pool.statistics()
        assert (now.refused, now.queued_bytes) == (1, 0)


@pytest.mark.anyio
@one_loop
async def test_retry_after_follows_measured_run_times(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A refused call is told how long the queue will take, by what runs have taken (Little)."""
    async with new_pool(max_workers=1, max_queued=1) as pool:
        for _ in range(3):
            await pool.run(time.sleep, 0.1)
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(pool.run, pool_functions.pid)
            await until(lambda: pool.statistics().queued == 1)
            with pytest.raises(QueueFullError) as caught:
                await pool.run(pool_functions.pid)
            gate.let()
        # Two calls, of which one runs, after those that took 0.1 s, or what the machine made of it.
        assert 0.1 <= caught.value.retry_after <= 3 * pool.statistics().run.maximum


@pytest.mark.anyio
@one_loop
async def test_larger_priority_runs_first(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, tmp_path: Path
) -> None:
    """Waiting calls run by priority, and those of one priority in order of arrival."""
    path = tmp_path / "order"
    async with new_pool(max_workers=1) as pool:
        note = offload(pool=pool)(pool_functions.note)
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            for count, (name, priority) in enumerate(
                [("a", 0), ("b", 5), ("c", -1), ("d", 0), ("e", 5)], start=1
            ):
                group.start_soon(note.options(priority=priority), str(path), name)
                await until(lambda count=count: pool.statistics().queued == count)
            gate.let()
    assert path.read_text().split() == ["b", "e", "a", "d", "c"]


@pytest.mark.anyio
async def test_function_runs_no_more_often_at_once_than_it_may(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A function with `max_concurrency` waits for itself, and lets others pass."""
    async with new_pool(max_workers=3) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            limited = offload(pool=pool, max_concurrency=2)(pool_functions.hold)
            for _ in range(4):
                group.start_soon(limited, entered.path, gate.path)
            for _ in range(2):
                await entered.heard()
            await until(lambda: pool.statistics().queued == 2)
            assert await pool.run(pool_functions.echo, "passed") == "passed"
            assert pool.statistics().busy == 2
            assert entered.rest() == []
            gate.let(4)
            del held
        assert len(entered.rest()) == 2


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_queue_timeout_holds_while_no_worker_comes_up(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call does not wait longer than it wants to for a worker that is starting."""
    with Fifo(Path(entered.path + ".gate")) as gate:
        options = {"initializer": pool_functions.hold, "initargs": (entered.path, gate.path)}
        pool = new_pool(max_workers=1, queue_timeout=0.05, **options)
        with pytest.raises(QueueTimeoutError):
            await pool.run(pool_functions.pid)
        await entered.heard()
        await pool.aclose(drain=0)


@pytest.mark.anyio
async def test_queue_timeout_holds_for_a_call_that_went_back(
    new_pool: Callable[..., Pool],
) -> None:
    """A call that its dead worker never got waits again, but not for ever."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(pool_functions.pid)
        supervisor = parent_of(pid)
        os.kill(supervisor, signal.SIGSTOP)  # it starts and buries nobody for a while
        try:
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
            with anyio.fail_after(PATIENCE), pytest.raises(QueueTimeoutError):
                await offload(pool=pool, queue_timeout=0.1)(pool_functions.pid)()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert await pool.run(pool_functions.pid) != pid


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(6)
async def test_call_that_is_put_behind_its_function_minds_its_queue_timeout(
    entered: Fifo, tmp_path: Path
) -> None:
    """One whose worker died before it took it waits again; its clock runs all the same."""
    with Fifo(tmp_path / "gate") as gate:
        async with Pool("seam parked", max_workers=2, spare_workers=0) as pool:
            limited = offload(pool=pool, max_concurrency=1)(seam_functions.hang)
            running = asyncio.ensure_future(limited(entered.path))
            await entered.heard()
            other = asyncio.ensure_future(pool.run(pool_functions.hold, entered.path, gate.path))
            await entered.heard()
            behind = asyncio.ensure_future(limited.options(queue_timeout=1.0)(entered.path))
            passing = asyncio.ensure_future(pool.run(pool_functions.echo, 1))
            await until(lambda: pool.statistics().queued == 2)
            gate.let()
            assert await passing == 1
            inside.wait_in_queue_again(pool, seam_functions.hang)
            with pytest.raises(QueueTimeoutError), anyio.fail_after(PATIENCE):
                await behind
            running.cancel()
            await asyncio.wait([running, other])


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestRequeued:
    @pytest.mark.guarantee(5)
    async def test_call_that_goes_back_to_the_queue_has_its_clock(self) -> None:
        """A call whose worker died before receiving it waits no longer than its queue_timeout."""
        async with Pool("races requeued", max_workers=1, spare_workers=0) as pool:
            await pool.run(pool_functions.echo, 0)
            pid = only_pid(pool)
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            # There is no other worker to be had.
            inside.start_no_worker(pool)
            waiting = asyncio.ensure_future(call(pool, pool_functions.echo, 1, queue_timeout=0.1))
            await until(lambda: pool.statistics().busy)
            os.kill(pid, signal.SIGKILL)
            with anyio.fail_after(PATIENCE / 2), pytest.raises(QueueTimeoutError):
                await waiting


@pytest.mark.parametrize("count", [3000])
def test_thousands_that_nobody_wants_are_passed_over(count: int, tmp_path: Path) -> None:
    """Calls that were given up while they waited cost the worker nothing, however many."""
    pool = Pool("unwanted", max_workers=1, max_queued=None, os_priority="normal")
    try:
        with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
            executor = pool.executor()
            first = executor.submit(pool_functions.hold, entered.path, gate.path)
            entered.heard_now()
            waiting = [executor.submit(pool_functions.echo, number) for number in range(count)]
            last = executor.submit(pool_functions.echo, "last")
            # One that is given up before it comes to the pool is none of the pool's.
            limit = time.monotonic() + PATIENCE
            while pool.statistics().queued <= count:
                assert time.monotonic() < limit
                time.sleep(0.01)
            assert all(future.cancel() for future in waiting)
            gate.let()
            assert last.result(PATIENCE) == "last"
            assert first.result(PATIENCE)[0] is None
        now = pool.statistics()
        assert (now.busy, now.queued, now.crashed, now.cancelled) == (0, 0, 0, count)
    finally:
        pool.kill().result(PATIENCE)
        inside.forget(pool)

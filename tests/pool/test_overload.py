"""More calls than a pool can run: refused at once, honestly, in order, and forgotten soon after."""

import asyncio
import contextlib
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest

from offload import Pool, PoolClosedError, QueueFullError, QueueTimeoutError
from tests.support.calls import open_files, warm_up
from tests.support.functions import crossing as functions
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, until

pytestmark = pytest.mark.anyio

MIB = 2**20
WORKERS = 2
# How many calls begin in one turn of the loop: the start of a thousand is the test's own work.
_IN_ONE_TURN = 50


@contextlib.asynccontextmanager
async def held_pool(entered: Fifo, gate: Fifo, **options: Any) -> Any:
    """Open a pool whose only worker is held at the gate; let it pass at the end."""
    with anyio.fail_after(PATIENCE):
        async with (
            Pool("overload", max_workers=1, **options) as pool,
            anyio.create_task_group() as group,
        ):
            group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
            await entered.heard()
            try:
                yield pool, group
            finally:
                gate.let()


# --- limits ---


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("limit", [0, 1, 7])
async def test_queue_holds_as_many_as_declared(entered: Fifo, gate: Fifo, limit: int) -> None:
    """Exactly `max_queued` calls wait, and the next one is refused."""
    async with held_pool(entered, gate, max_queued=limit) as (pool, group):
        for _ in range(limit):
            group.start_soon(pool.run, pool_functions.pid)
        await until(lambda: pool.statistics().queued == limit)
        with pytest.raises(QueueFullError, match="did not run") as caught:
            await pool.run(pool_functions.knock, entered.path)
        assert caught.value.limit == "max_queued"
        assert pool.statistics().refused == 1
        assert pool.statistics().queued == limit
    assert entered.rest() == []


async def test_place_of_a_call_that_left_is_free(entered: Fifo, gate: Fifo) -> None:
    """A call that is cancelled while it waits makes room for another."""
    async with held_pool(entered, gate, max_queued=1) as (pool, group):
        for _ in range(3):
            with anyio.move_on_after(0.01):
                await pool.run(pool_functions.pid)
            await until(lambda: pool.statistics().queued == 0)
        group.start_soon(pool.run, pool_functions.pid)
        await until(lambda: pool.statistics().queued == 1)
    assert pool.statistics().refused == 0


@pytest.mark.guarantee(6)
async def test_queue_holds_as_many_bytes_as_declared(entered: Fifo, gate: Fifo) -> None:
    """Past `max_queued_bytes` a call is refused, small or large; a smaller one may still fit."""
    async with held_pool(entered, gate, max_queued_bytes=12 * MIB) as (pool, group):
        for _ in range(2):
            group.start_soon(pool.run, pool_functions.length, bytes(4 * MIB))
        await until(lambda: pool.statistics().queued == 2)
        assert 8 * MIB < pool.statistics().queued_bytes < 8 * MIB + 2000
        with pytest.raises(QueueFullError) as caught:
            await pool.run(pool_functions.length, bytes(4 * MIB))
        assert caught.value.limit == "max_queued_bytes"
        group.start_soon(pool.run, pool_functions.length, bytes(3 * MIB))
        await until(lambda: pool.statistics().queued == 3)
        await until(lambda: len(open_files()) == 3)
    assert pool.statistics().queued_bytes == 0
    await until(lambda: not open_files())


async def test_one_call_larger_than_the_limit_can_run(entered: Fifo, gate: Fifo) -> None:
    """What is larger than the whole queue is not impossible: it waits alone."""
    async with held_pool(entered, gate, max_queued_bytes=MIB) as (pool, group):
        group.start_soon(pool.run, pool_functions.length, bytes(4 * MIB))
        await until(lambda: pool.statistics().queued == 1)
        with pytest.raises(QueueFullError):
            await pool.run(pool_functions.pid)
        gate.let()
        await until(lambda: pool.statistics().completed == 2)


async def test_idle_worker_is_no_queue(entered: Fifo, gate: Fifo) -> None:
    """With `max_queued=0` what a free worker can take is accepted."""
    async with Pool("overload", max_workers=1, max_queued=0) as pool:
        for _ in range(20):
            await pool.run(pool_functions.pid)


# --- refusals ---


@pytest.mark.guarantee(6)
async def test_refusals_are_immediate_under_load() -> None:
    """At many times the capacity a refusal takes no longer than it takes to say no."""
    refusals: list[float] = []
    waits: list[float] = []
    async with Pool("overload", max_workers=WORKERS, max_queued=4) as pool:
        await warm_up(pool)

        async def one() -> None:
            begin = time.perf_counter()
            try:
                await pool.run(functions.spin, 0.01)
            except QueueFullError:
                refusals.append(time.perf_counter() - begin)
            else:
                waits.append(time.perf_counter() - begin)

        async with anyio.create_task_group() as group:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                for _ in range(5):
                    group.start_soon(one)
                await anyio.sleep(0.005)
        now = pool.statistics()
    assert len(refusals) > 100
    refusals.sort()
    # The goal is 5 ms under asyncio; trio's calls go by way of another thread.
    assert refusals[int(len(refusals) * 0.95)] < 0.1
    assert statistics.median(refusals) < 0.02
    # Whoever was admitted waits for no longer than the queue is long, by what runs really took.
    assert statistics.median(waits) < 0.1 + 10 * now.run.quantile(0.5)


@pytest.mark.guarantee(1)
async def test_large_call_is_refused_before_it_is_pickled(entered: Fifo, gate: Fifo) -> None:
    """A full queue costs a caller with 64 MiB nothing: no pickling, no file."""
    async with held_pool(entered, gate, max_queued=0) as (pool, _):
        value = bytearray(64 * MIB)
        begin = time.process_time()  # of all threads: it is not put off onto another one either
        for _ in range(20):
            with pytest.raises(QueueFullError):
                await pool.run(pool_functions.length, value)
        assert (time.process_time() - begin) / 20 < 0.01
        assert open_files() == []


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_retry_after_is_honest() -> None:
    """Under a steady load a refused caller is told about how long the queue takes to pass."""
    told: list[float] = []
    took: list[float] = []
    run_seconds, queue = 0.02, 10
    async with Pool("overload", max_workers=WORKERS, max_queued=queue) as pool:
        await warm_up(pool)

        async def client() -> None:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                begin = time.monotonic()
                try:
                    await pool.run(functions.spin, run_seconds)
                except QueueFullError:
                    # Its place has the one below. To be refused takes no turn of the loop.
                    await anyio.sleep(0.005)
                else:
                    took.append(time.monotonic() - begin - run_seconds)

        async with anyio.create_task_group() as group:
            for _ in range(WORKERS + queue):
                group.start_soon(client)
            await anyio.sleep(0.7)
            for _ in range(20):
                await anyio.sleep(0.02)
                try:
                    await pool.run(functions.spin, run_seconds)
                except QueueFullError as full:
                    told.append(full.retry_after)
    # By Little's law: as long as those waited that were admitted.
    assert told
    waited = statistics.median(took[len(took) // 2 :])
    assert 0.5 < statistics.median(told) / waited < 2.0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_retry_after_grows_with_the_queue(entered: Fifo, gate: Fifo) -> None:
    """What a refused caller is told counts the calls before him, and the workers."""
    async with Pool("overload", max_workers=1, max_queued=4) as pool:
        # The first run also imports its module; that is forgotten within some ten others.
        for _ in range(40):
            await pool.run(functions.spin, 0.03)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                with pytest.raises(QueueTimeoutError) as alone:
                    await call(pool, pool_functions.pid, queue_timeout=0.01)
                for _ in range(4):
                    group.start_soon(pool.run, pool_functions.pid)
                await until(lambda: pool.statistics().queued == 4)
                with pytest.raises(QueueFullError) as full:
                    await pool.run(pool_functions.pid)
                gate.let()
        longest = pool.statistics().run.maximum
    # What is left of the one that runs, of which nobody knows; and then four usual ones, too.
    assert 0.0 < alone.value.retry_after <= longest
    assert 4 * 0.02 < full.value.retry_after <= 5 * longest


async def test_retry_after_counts_runs_that_were_stopped() -> None:
    """Calls that run into their timeout hold a worker as long, and are counted as much."""
    async with Pool("overload", max_workers=1, max_queued=1, timeout=0.1) as pool:
        with anyio.fail_after(PATIENCE):
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await pool.run(functions.spin, 30.0)
            async with anyio.create_task_group() as group:

                async def one() -> None:
                    with contextlib.suppress(TimeoutError, PoolClosedError):
                        await pool.run(functions.spin, 30.0)

                for _ in range(2):
                    group.start_soon(one)
                await until(lambda: pool.statistics().queued == 1)
                with pytest.raises(QueueFullError) as caught:
                    await pool.run(pool_functions.pid)
    assert 0.1 < caught.value.retry_after < 5.0


# --- afterwards ---


async def test_recovers_at_once() -> None:
    """When the load is over, so are the waits: nothing of it is left in the pool."""
    async with Pool("overload", max_workers=WORKERS, max_queued=20) as pool:
        await warm_up(pool)

        async def one() -> None:
            with contextlib.suppress(QueueFullError):
                await pool.run(functions.spin, 0.01)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(500):
                    group.start_soon(one)
                    if number % _IN_ONE_TURN == 0:
                        await anyio.lowlevel.checkpoint()
            assert pool.statistics().queued == pool.statistics().busy == 0
            assert await pool.run(pool_functions.echo, 1) == 1
        now = pool.statistics()
        assert now.completed + now.refused >= 500
        assert now.failed == now.crashed == now.cancelled == now.timed_out == 0


@pytest.mark.guarantee(5)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_every_call_ends_exactly_once() -> None:
    """However calls end under overload, each one does, and the counters add up."""
    ends: dict[str, int] = {}
    async with Pool("overload", max_workers=WORKERS, max_queued=30) as pool:
        await warm_up(pool)
        before = pool.statistics()

        async def one(number: int) -> None:
            how = "cancelled"
            with anyio.move_on_after(0.01 if number % 5 == 0 else None):
                try:
                    if number % 7 == 0:
                        await call(pool, functions.spin, 30.0, timeout=0.02)
                    elif number % 11 == 0:
                        await call(pool, functions.spin, 0.002, queue_timeout=0.01)
                    elif number % 13 == 0:
                        await call(pool, functions.spin, 0.002, deadline=time.monotonic() + 0.02)
                    else:
                        await pool.run(functions.spin, 0.002)
                    how = "completed"
                except (QueueFullError, TimeoutError) as error:
                    how = type(error).__name__
            ends[how] = ends.get(how, 0) + 1

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(600):
                    group.start_soon(one, number)
                    if number % 6 == 0:
                        await anyio.sleep(0.01)
            await until(lambda: not pool.statistics().busy)
        now = pool.statistics()
    assert sum(ends.values()) == 600
    assert now.queued == now.queued_bytes == 0
    # Under trio a call may complete, or be refused, in the moment in which it is cancelled: the
    # cancellation has to reach another thread.
    completed = now.completed - before.completed
    assert 0 <= completed - ends["completed"] <= ends.get("cancelled", 0)
    assert 0 <= now.refused - ends.get("QueueFullError", 0) <= ends.get("cancelled", 0)
    assert now.failed == 0


# --- order ---


async def test_larger_priority_runs_first(entered: Fifo, gate: Fifo, tmp_path: Path) -> None:
    """Of those that wait the most urgent runs first, and equals in order of arrival."""
    trace = tmp_path / "order"
    priorities = [0, -1, 5, 0, 5, 1, -1, 2]
    async with held_pool(entered, gate) as (pool, group):
        for index, priority in enumerate(priorities):

            async def one(text: str, priority: int) -> None:
                await call(pool, pool_functions.note, str(trace), text, priority=priority)

            group.start_soon(one, f"{priority}.{index}", priority)
            await until(lambda: pool.statistics().queued == index + 1)  # noqa: B023 - awaited here
    expected = sorted(range(len(priorities)), key=lambda index: (-priorities[index], index))
    assert trace.read_text().split() == [f"{priorities[index]}.{index}" for index in expected]


async def test_full_queue_refuses_the_urgent_too(entered: Fifo, gate: Fifo) -> None:
    """The limit is the limit: nobody who was admitted is thrown out for a newcomer."""
    async with held_pool(entered, gate, max_queued=1) as (pool, group):
        group.start_soon(pool.run, pool_functions.pid)
        await until(lambda: pool.statistics().queued == 1)
        with pytest.raises(QueueFullError):
            await call(pool, pool_functions.pid, priority=100)


# --- bytes ---


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_thousand_large_calls_stay_within_their_limit() -> None:
    """1,000 calls of 1 MiB at once take as much memory as allowed, and no descriptor stays."""
    process = psutil.Process()
    limit = 32 * MIB
    most = 0
    counts = {"done": 0, "refused": 0}
    limits: set[str] = set()
    value = os.urandom(MIB)
    async with Pool("overload", max_workers=WORKERS, max_queued_bytes=limit) as pool:
        await warm_up(pool)
        descriptors, before = process.num_fds(), process.memory_info().rss

        async def one() -> None:
            while True:
                try:
                    assert await pool.run(pool_functions.length, value) == MIB
                except QueueFullError as full:
                    counts["refused"] += 1
                    limits.add(full.limit)
                    # With jitter, as clients should: all in one turn of the loop would hold it.
                    await asyncio.sleep(min(full.retry_after, 0.2) * random.uniform(0.5, 1.5))
                else:
                    counts["done"] += 1
                    return

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(open_files()))
                assert pool.statistics().queued_bytes <= limit
                await asyncio.sleep(0.02)

        watching = asyncio.ensure_future(watch())
        async with asyncio.timeout(PATIENCE):
            async with asyncio.TaskGroup() as group:
                for number in range(1000):
                    group.create_task(one())
                    if number % _IN_ONE_TURN == 0:
                        await asyncio.sleep(0)
        watching.cancel()
        await until(lambda: not open_files())
        assert process.num_fds() <= descriptors + 4  # a worker may have been started meanwhile
        assert process.memory_info().rss - before < 64 * MIB
    assert counts["done"] == 1000
    assert counts["refused"] > 0
    assert limits == {"max_queued_bytes"}
    # Those that run, and those that a thread has just pickled and that are refused now.
    assert most <= limit + (WORKERS + 16) * MIB

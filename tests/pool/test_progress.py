"""What a function knows of its task, and tells of its progress."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from offload import Pool, task_context
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


HOME = "tests.support.functions.crossing"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what a task leaves behind is there for the next one to see."""
    pool = Pool(
        "crossing",
        max_workers=1,
        spare_workers=0,
        context_vars=[f"{HOME}:user", f"{HOME}:trace"],
    )
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@pytest.mark.anyio
class TestProgress:
    async def test_progress_arrives_in_order_and_ends_with_all(self, pool: Pool) -> None:
        """Reports come in order, the last one says that all is done, and before the result."""
        reports: list[tuple[float, float | None]] = []

        def on_progress(done: float, total: float | None) -> None:
            reports.append((done, total))

        assert await call(pool, crossing_functions.report, 1000, on_progress=on_progress) == 1000
        assert reports == sorted(reports)
        assert reports[0] == (1, 1000)
        assert reports[-1] == (1000, 1000)

    async def test_often_reported_is_rarely_sent(self, pool: Pool) -> None:
        """A report in each of 100,000 steps costs neither the worker nor the loop."""
        reports: list[float] = []
        begin = time.monotonic()
        await call(
            pool, crossing_functions.report, 100_000, on_progress=lambda d, _: reports.append(d)
        )
        assert len(reports) <= 3 + (time.monotonic() - begin) / 0.05

    async def test_progress_is_told_on_the_event_loop(self, pool: Pool) -> None:
        """The callback may touch what belongs to the loop: it runs on its thread."""
        threads: set[int] = set()
        await call(
            pool,
            crossing_functions.report,
            5,
            on_progress=lambda *_: threads.add(threading.get_ident()),
        )
        assert threads == {threading.get_ident()}

    async def test_failing_callback_costs_nothing(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A callback that raises is logged; the call ends as if there were none."""

        def on_progress(done: float, total: float | None) -> None:
            raise ZeroDivisionError("by intent")

        assert await call(pool, crossing_functions.report, 3, on_progress=on_progress) == 3
        assert "on_progress" in caplog.text
        assert "by intent" in caplog.text

    async def test_total_may_be_unknown(self, pool: Pool) -> None:
        """Without a total the callback is told None."""
        reports: list[Any] = []
        await call(
            pool,
            crossing_functions.report_without_total,
            10,
            on_progress=lambda *each: reports.append(each),
        )
        assert reports[0] == (0, None)

    async def test_progress_nobody_asked_for_is_dropped(self, pool: Pool) -> None:
        """A function that reports may be called without a callback."""
        assert await call(pool, crossing_functions.report, 10) == 10

    async def test_large_numbers_cross(self, pool: Pool) -> None:
        """What is reported is any number that pickles."""
        reports: list[Any] = []
        await call(
            pool,
            crossing_functions.report_odd,
            10**40,
            on_progress=lambda *each: reports.append(each),
        )
        assert reports == [(10**40, 10**40)]


@pytest.mark.anyio
class TestCurrentTask:
    async def test_outside_of_workers_there_is_none(self) -> None:
        """In the server no code runs in a task."""
        assert task_context() is None

    async def test_function_and_no_deadline(self, pool: Pool) -> None:
        """Without a timeout there is no deadline."""
        assert await pool.run(crossing_functions.facts) == (f"{HOME}:facts", None, False)

    async def test_timeout_is_the_tasks_deadline(self, pool: Pool) -> None:
        """The function can see until when it may run."""
        _, left, _ = await call(pool, crossing_functions.facts, timeout=3600.0)
        assert 3600.0 - PATIENCE < left <= 3600.0

    async def test_deadline_is_the_tasks_deadline(self, pool: Pool) -> None:
        """A deadline of the call is the task's, if it comes before the timeout."""
        deadline = time.monotonic() + 1800.0
        _, left, _ = await call(pool, crossing_functions.facts, timeout=3600.0, deadline=deadline)
        assert 1800.0 - PATIENCE < left <= 1800.0

    async def test_deadline_counts_the_time_in_the_queue(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A task that waited has that much less of its deadline left, and can see it."""
        found: list[Any] = []

        async def waiting() -> None:
            found.append(
                await call(pool, crossing_functions.facts, deadline=time.monotonic() + 1800.0)
            )

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(call, pool, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                group.start_soon(waiting)
                await until(lambda: pool.statistics().queued)
                begin = time.monotonic()
                await until(lambda: time.monotonic() > begin + 0.2)
                gate.let()
        assert 1800.0 - PATIENCE < found[0][1] < 1799.8

    async def test_deadline_crosses_with_a_large_argument(self, pool: Pool) -> None:
        """The way of large payloads carries the deadline as well."""
        _, left, _ = await call(pool, crossing_functions.facts, b"x" * 200_000, timeout=3600.0)
        assert 3600.0 - PATIENCE < left <= 3600.0

    async def test_cancelled_is_seen_by_the_function(self, pool: Pool, entered: Fifo) -> None:
        """A function with grace sees that nobody waits, ends by itself, and its worker lives."""
        pid = await pool.run(pool_functions.pid)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:

                async def waiting() -> None:
                    await call(
                        pool, pool_functions.hold_until_cancelled, entered.path, grace=PATIENCE
                    )

                group.start_soon(waiting)
                await entered.heard()
                group.cancel_scope.cancel()
            await until(lambda: not pool.statistics().leaving)
            assert await pool.run(pool_functions.pid) == pid
            assert not (await pool.run(crossing_functions.facts))[2]

    async def test_threads_of_the_function_are_not_in_a_task(self, pool: Pool) -> None:
        """A new thread has no context: the task is its starter's."""
        assert await pool.run(crossing_functions.task_in_thread) is None


@pytest.mark.anyio
@one_loop
async def test_cancelled_error_of_a_progress_callback_loses_no_result(one_worker: Pool) -> None:
    """A callback that meets a cancelled future costs itself, though the result came with it."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    calling = asyncio.ensure_future(
        call(
            one_worker,
            hostile_functions.report_then_return,
            on_progress=lambda *_: cancelled.result(),
        )
    )
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy: both arrive at once
    with anyio.fail_after(PATIENCE):
        assert await calling == "result"


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_progress_that_exits_when_unpickled_costs_itself(
    one_worker: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the result arrives."""
    result = await call(one_worker, hostile_functions.report_exit, on_progress=lambda *_: None)
    assert result == "went on"
    assert "on_progress" in caplog.text

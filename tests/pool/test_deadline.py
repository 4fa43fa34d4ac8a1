"""Deadlines: in the queue, while running, and beside timeouts; a call that cannot meet its own."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from offload import DeadlineError, Pool, QueueTimeoutError, TaskTimeoutError, deadline_after
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, longer_and_longer, until

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


@pytest.fixture(scope="module")
def wide() -> Iterator[Pool]:
    """One pool of two workers."""
    pool = Pool("crossing wide", max_workers=2)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@pytest.mark.anyio
class TestDeadlines:
    async def test_passed_deadline_is_refused_at_once(self, pool: Pool, tmp_path: Path) -> None:
        """A call that is too late already does not start, though a worker is idle."""
        trace = tmp_path / "ran"
        with pytest.raises(DeadlineError, match="did not run") as caught:
            await call(
                pool, pool_functions.note, str(trace), "ran", deadline=time.monotonic() - 1.0
            )
        assert caught.value.may_have_run is False
        await pool.run(pool_functions.pid)
        assert not trace.exists()

    @pytest.mark.parametrize("size", [0, 200_000])
    async def test_deadline_stops_a_running_call(
        self, wide: Pool, entered: Fifo, gate: Fifo, size: int
    ) -> None:
        """A call that runs at its deadline is stopped then, and the error says that it ran."""
        for seconds in longer_and_longer(0.3):
            deadline = time.monotonic() + seconds
            with pytest.raises(DeadlineError) as caught:
                await call(
                    wide,
                    pool_functions.hold,
                    entered.path,
                    gate.path,
                    b"x" * size,
                    deadline=deadline,
                )
            assert time.monotonic() > deadline - 0.05
            assert caught.value.deadline == deadline
            if entered.rest():
                break
        assert caught.value.may_have_run is True
        assert "ran in part" in str(caught.value)

    async def test_deadline_is_told_from_timeout(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whichever comes first is the error, on every event loop's clock."""
        for index in range(8):
            with pytest.raises(DeadlineError):
                await call(
                    wide,
                    pool_functions.hold,
                    entered.path,
                    gate.path,
                    deadline=time.monotonic() + 0.0303 + index * 0.0007,
                )
        with pytest.raises(TaskTimeoutError, match=r"0\.05 s"):
            await call(
                wide,
                crossing_functions.spin,
                30.0,
                timeout=0.05,
                deadline=time.monotonic() + 60.0,
            )

    @pytest.mark.guarantee(6)
    async def test_deadline_in_the_queue_never_runs(
        self, pool: Pool, entered: Fifo, gate: Fifo, tmp_path: Path
    ) -> None:
        """A call that waits past its deadline is not started, and told so at its deadline."""
        trace = tmp_path / "ran"
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                deadline = time.monotonic() + 0.2
                with pytest.raises(DeadlineError, match="did not run") as caught:
                    await call(pool, pool_functions.note, str(trace), "ran", deadline=deadline)
                gate.let()
        assert caught.value.may_have_run is False
        await pool.run(pool_functions.pid)
        assert not trace.exists()
        assert pool.statistics().queued == 0

    async def test_deadline_is_told_from_queue_timeout(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """The limit that ended the wait is the one in the error."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                for index in range(5):
                    deadline = time.monotonic() + 0.0203 + index * 0.0007
                    with pytest.raises(DeadlineError):
                        await call(pool, pool_functions.pid, deadline=deadline)
                    with pytest.raises(QueueTimeoutError, match=r"0\.02 s"):
                        await call(
                            pool,
                            pool_functions.pid,
                            queue_timeout=0.02,
                            deadline=time.monotonic() + 60.0,
                        )
                gate.let()

    async def test_too_long_a_queue_is_not_a_missed_deadline(
        self, pool: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A far deadline is not blamed for a short queue timeout, however long the queue."""
        for _ in range(3):
            await pool.run(crossing_functions.spin, 0.2)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                for _ in range(3):
                    group.start_soon(pool.run, pool_functions.pid)
                await until(lambda: pool.statistics().queued == 3)
                with pytest.raises(QueueTimeoutError):
                    await call(
                        pool,
                        pool_functions.pid,
                        queue_timeout=0.01,
                        deadline=time.monotonic() + 3600.0,
                    )
                gate.let()

    @pytest.mark.guarantee(6)
    async def test_deadline_that_cannot_be_met_is_not_started(self, pool: Pool) -> None:
        """Going by how long the function takes, a call that cannot end in time is refused."""
        for _ in range(2):
            await pool.run(crossing_functions.spin, 0.3)
        # A worker is free: whoever tried would have begun.
        with pytest.raises(DeadlineError, match="did not run") as caught:
            await call(pool, crossing_functions.spin, 0.3, deadline=time.monotonic() + 0.1)
        assert caught.value.may_have_run is False
        assert (
            await call(pool, crossing_functions.spin, 0.3, deadline=time.monotonic() + 60.0) == 0.3
        )

    async def test_one_slow_run_does_not_refuse_for_ever(self, pool: Pool, tmp_path: Path) -> None:
        """A first run that took long is forgotten: a function that is fast now is tried again."""
        flag = str(tmp_path / "slow")
        assert await pool.run(crossing_functions.slow_once, flag, 0.5)
        refused = 0
        while True:
            try:
                await call(
                    pool, crossing_functions.slow_once, flag, 0.0, deadline=time.monotonic() + 0.25
                )
            except DeadlineError:
                refused += 1
                assert refused < 200
            else:
                break


@pytest.mark.anyio
@one_loop
async def test_executor_minds_the_deadline_of_the_block(one_worker: Pool) -> None:
    """`deadline_after` holds for calls by way of `pool.executor()` as well."""
    executor = one_worker.executor()
    with deadline_after(0.2):
        future = executor.submit(time.sleep, 30.0)
    with pytest.raises(DeadlineError):
        await asyncio.wrap_future(future)

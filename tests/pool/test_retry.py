"""Calls that are run again after a crash, with `max_crash_retries`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from offload import Pool, QueueTimeoutError, WorkerCrashedError
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, until

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
class TestRetryOnCrash:
    @pytest.mark.guarantee(3)
    async def test_poison_stops_at_its_limit(self, wide: Pool, tmp_path: Path) -> None:
        """An input that kills every worker is tried once and as often again as allowed."""
        trace = tmp_path / "runs"
        with pytest.raises(WorkerCrashedError) as caught:
            await call(wide, crossing_functions.poison, str(trace), max_crash_retries=2)
        assert caught.value.may_have_run
        pids = trace.read_text().split()
        assert len(pids) == len(set(pids)) == 3
        assert caught.value.pid == int(pids[-1])

    async def test_crash_is_retried(self, wide: Pool, tmp_path: Path) -> None:
        """A call whose worker dies twice ends with its result, if it may run three times."""
        assert await call(
            wide, crossing_functions.crash_times, str(tmp_path / "runs"), 2, max_crash_retries=2
        )

    async def test_large_arguments_are_sent_again(self, wide: Pool, tmp_path: Path) -> None:
        """The arguments of a large call are kept for its next run, and then freed."""
        size = 5_000_000
        runs = await call(
            wide,
            crossing_functions.crash_times_with,
            b"x" * size,
            str(tmp_path / "runs"),
            1,
            max_crash_retries=1,
        )
        assert runs == 2 * size

    async def test_without_the_option_nothing_runs_twice(self, wide: Pool, tmp_path: Path) -> None:
        """By default a call whose worker died has failed."""
        trace = tmp_path / "runs"
        with pytest.raises(WorkerCrashedError):
            await call(wide, crossing_functions.poison, str(trace))
        assert len(trace.read_text().split()) == 1

    @pytest.mark.guarantee(5)
    async def test_retry_that_is_refused_says_that_it_ran(
        self, entered: Fifo, gate: Fifo, tmp_path: Path
    ) -> None:
        """A crash that is not retried in time is a crash: not an error that says "did not run"."""
        caught: list[BaseException] = []

        async def crashing(pool: Pool, crash: str) -> None:
            with pytest.raises(WorkerCrashedError) as error:
                await call(
                    pool,
                    crossing_functions.hold_and_crash,
                    entered.path,
                    crash,
                    max_crash_retries=1,
                    queue_timeout=0.2,
                )
            caught.append(error.value)

        with Fifo(tmp_path / "crash") as crash, anyio.fail_after(PATIENCE):
            async with (
                Pool("crossing temporary", max_workers=1) as pool,
                anyio.create_task_group() as group,
            ):
                group.start_soon(crashing, pool, crash.path)
                await entered.heard()

                async def hold() -> None:
                    await call(pool, pool_functions.hold, entered.path, gate.path, priority=1)

                group.start_soon(hold)
                await until(lambda: pool.statistics().queued)
                crash.let()
                await entered.heard()
                await until(lambda: caught)
                gate.let()
        assert caught[0].may_have_run  # type: ignore[attr-defined]
        assert isinstance(caught[0].__cause__, QueueTimeoutError)

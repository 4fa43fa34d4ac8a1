"""Executors that others make, as workers of a pool: in their own way, and at their own time."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import Pool, TaskTimeoutError
from tests.support import inside
from tests.support.functions import pool as pool_functions
from tests.support.functions import races as race_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


class Silent(Executor):
    """As Dask's: its futures never say that they run, so that what runs can be cancelled."""

    def __init__(self) -> None:
        self.ran = threading.Event()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it in a thread."""
        future: Future[Any] = Future()

        def run() -> None:
            result = fn(*args, **kwargs)
            self.ran.set()
            with contextlib.suppress(Exception):
                future.set_result(result)

        threading.Thread(target=run).start()
        return future

    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]  # noqa: FBT001, FBT002
        """Take no `cancel_futures`."""


class Immediate(Executor):
    """Runs what it is given at once, as a double in a test does."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - goes where it belongs
            future.set_exception(error)
        return future


class Stubborn(Executor):
    """Its tasks end in the very moment in which somebody tries to cancel them."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Keep it."""

        class Ending(Future[Any]):
            def cancel(self) -> bool:
                self.set_result(fn(*args, **kwargs))
                return False

        return Ending()


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    shared_pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(shared_pool.open())
    yield shared_pool
    asyncio.run(shared_pool.aclose(drain=5.0))


class FailsOnce(Executor):
    """An executor whose connection is closed once, when the first call is made."""

    failed = False

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._is_ready = False

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._is_ready and not FailsOnce.failed:
            FailsOnce.failed = True
            raise OSError("the connection to the scheduler is closed")
        self._is_ready = True
        return self._threads.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - stdlib's signature
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


@pytest.mark.guarantee(5)
async def test_timeout_does_not_say_that_nothing_ran_where_nobody_knows() -> None:
    """Only the futures of the standard library tell for sure."""
    executor = Silent()
    async with Pool("seam silent", max_workers=1, spare_workers=0, executor=executor) as pool:
        with pytest.raises(TaskTimeoutError) as caught:
            await call(pool, seam_functions.size, b"", 0.5, timeout=0.1)
        assert caught.value.may_have_run
        assert await anyio.to_thread.run_sync(executor.ran.wait, PATIENCE)
        assert await call(pool, seam_functions.size, b"abc", 0.0) == 3


@pytest.mark.guarantee(7)
async def test_pool_closes_on_executors_that_shut_down_in_their_own_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without `cancel_futures`, or not at all."""

    class Failing(Silent):
        def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]  # noqa: FBT001, FBT002
            raise LookupError("of a shutdown")

    for factory in (Silent, Failing):
        pool = Pool("seam shutdown", max_workers=1, executor=factory)
        assert await pool.run(pool_functions.echo, 1) == 1
        started = time.monotonic()
        await pool.aclose(drain=0.0)
        assert time.monotonic() - started < 5.0
        assert not pool.statistics().workers
        inside.forget("seam shutdown")
    assert "LookupError: of a shutdown" in caplog.text
    assert "Silent" not in caplog.text


@pytest.mark.guarantee(3)
async def test_executor_that_runs_at_once_takes_any_number() -> None:
    """Calls that wait for it run one after the other, and not one within the other."""
    async with Pool("hostile now", max_workers=1, spare_workers=0, executor=Immediate()) as pool:
        with anyio.fail_after(PATIENCE):
            results = await asyncio.gather(
                *(pool.run(pool_functions.echo, number) for number in range(600))
            )
    assert results == list(range(600))


@pytest.mark.guarantee(3)
async def test_task_that_ends_while_it_is_cancelled_frees_its_worker() -> None:
    """An executor may complete a future while we try to cancel it."""
    async with Pool("hostile late", max_workers=1, spare_workers=0, executor=Stubborn()) as pool:
        for _ in range(2):
            with anyio.fail_after(PATIENCE), pytest.raises(TaskTimeoutError):
                await call(pool, pool_functions.echo, 1, timeout=0.05)
        assert not pool.statistics().busy


@pytest.mark.guarantee(3)
def test_executors_worker_outlives_a_loop_that_ends_too_early() -> None:
    """The end of a task is told, though the loop of its call is closed before it comes to it."""
    pool = Pool("hostile loop", max_workers=1, spare_workers=0, executor=Immediate())
    tasks: list[Any] = []

    async def first() -> None:
        tasks.extend(asyncio.ensure_future(pool.run(pool_functions.echo, 1)) for _ in range(5))
        await asyncio.sleep(0)

    async def second() -> int:
        with anyio.fail_after(PATIENCE):
            return await pool.run(pool_functions.echo, 2)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(first())
    loop.close()
    assert asyncio.run(second()) == 2
    asyncio.run(pool.aclose())
    for task in tasks:
        inside.destroy_quietly(task)  # by intent
    inside.forget(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestThreads:
    async def test_executor_that_refuses_with_an_error_of_its_own_is_replaced(self) -> None:
        """Whatever `submit` raises costs a worker, and no call."""
        async with Pool("races executor", max_workers=1, executor=FailsOnce) as shared_pool:
            with anyio.fail_after(PATIENCE):
                assert await shared_pool.run(pool_functions.echo, 1) == 1
        assert FailsOnce.failed

    async def test_task_that_cannot_be_stopped_is_counted_once(
        self, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """A call that timed out has not completed as well when its thread comes back."""
        executor = partial(ThreadPoolExecutor, 1)
        async with Pool("races threads", max_workers=1, executor=executor) as shared_pool:
            with pytest.raises(TaskTimeoutError):
                await call(shared_pool, pool_functions.hold, *held, timeout=0.05)
            await entered.heard()
            gate.let()
            await until(lambda: not shared_pool.statistics().busy)
            now = shared_pool.statistics()
        assert (now.timed_out, now.completed, now.failed) == (1, 0, 0)

    @pytest.mark.guarantee(4)
    async def test_call_that_waits_in_an_executor_of_others_is_taken_back(
        self, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """A call that times out before the executor comes to it did not run, and never does."""
        with ThreadPoolExecutor(1) as executor:
            busy = executor.submit(pool_functions.hold, *held)
            await entered.heard()
            async with Pool("races shared", max_workers=1, executor=executor) as shared_pool:
                with pytest.raises(
                    TaskTimeoutError, match="waited in the queue of its executor"
                ) as caught:
                    await call(shared_pool, pool_functions.hold, *held, timeout=0.05)
                assert not caught.value.may_have_run
                assert shared_pool.statistics().busy == 0
                gate.let(2)
                assert await shared_pool.run(pool_functions.echo, 1) == 1
                busy.result()
                now = shared_pool.statistics()
        assert not entered.rest()
        assert (now.not_started, now.timed_out, now.cancelled, now.completed) == (1, 0, 0, 1)

    async def test_thread_left_behind_reports_to_nobody(
        self, shared_pool: Pool, entered: Fifo, gate: Fifo, held: tuple[str, str], tmp_path: Path
    ) -> None:
        """Progress of a task that has ended is not told to the caller of the next one."""
        told: list[tuple[float, float | None]] = []
        late = Fifo(tmp_path / "late")
        await shared_pool.run(race_functions.report_later, entered.path, late.path)
        following = asyncio.ensure_future(
            call(
                shared_pool,
                race_functions.report_after_a_neighbour,
                *held,
                on_progress=lambda done, total: told.append((done, total)),
            )
        )
        await entered.heard()  # the next one runs
        with late:
            late.let()
            await entered.heard()  # and the one before has reported
        gate.let()
        await following
        assert told == [(2.0, 2.0)]

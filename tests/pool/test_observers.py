"""Observers hear of each call once, and nothing that they do costs a call."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import anyio
import pytest

from offload import CallRecord, DeadlineError, Pool, WorkerCrashedError, offload
from tests.support import inside
from tests.support.functions import observers as observed
from tests.support.functions import pool as pool_functions
from tests.support.processes import Fifo, until

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


class Watch:
    """Keeps what it is told."""

    def __init__(self, carrier: dict[str, str] | None = None) -> None:
        self.carrier = carrier
        self.submitted_calls: list[CallRecord] = []
        self.ended_calls: list[CallRecord] = []
        self.outcomes: list[tuple[str, str, str | None]] = []

    def submitted(self, call: CallRecord) -> dict[str, str] | None:
        """Note it."""
        call.context["mine"] = self
        self.submitted_calls.append(call)
        return self.carrier

    def ended(self, call: CallRecord) -> None:
        """Note it; the error itself is gone afterwards."""
        assert call.context["mine"] is self
        self.ended_calls.append(call)
        error = None if call.error is None else type(call.error).__name__
        self.outcomes.append((call.function.partition(":")[2], call.outcome, error))


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    shared_pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(shared_pool.open())
    yield shared_pool
    asyncio.run(shared_pool.aclose(drain=5.0))


class Watcher:
    """An observer that returns what it was made with."""

    def __init__(self, carriers: Iterator[Any]) -> None:
        self._carriers = carriers
        self.submitted_calls = 0
        self.ended_calls: list[str] = []

    def submitted(self, call: CallRecord) -> Mapping[str, str] | None:
        del call
        self.submitted_calls += 1
        return next(self._carriers)

    def ended(self, call: CallRecord) -> None:
        self.ended_calls.append(call.outcome)


async def test_observer_hears_of_each_call_once(pool: Pool, fifo: Callable[[str], Fifo]) -> None:
    """Whatever becomes of a call, its observer is told of its making and of its end."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    watch = Watch()
    end = pool.observe(watch)
    assert await offload(pool=pool)(pool_functions.echo)(1) == 1
    with pytest.raises(ZeroDivisionError):
        await pool.run(pool_functions.run_fault, "raise", report.path)
    with pytest.raises(WorkerCrashedError):
        await offload(pool=pool, max_crash_retries=1)(pool_functions.run_fault)(
            "SIGKILL", report.path
        )
    with anyio.move_on_after(0):
        await pool.run(pool_functions.hold, entered.path, gate.path)
    with pytest.raises(DeadlineError):
        await offload(pool=pool, deadline=1.0)(pool_functions.echo)(1)
    items = [item async for item in offload(pool=pool)(observed.words).stream(2)]
    assert items == ["nothing", "nothing"]

    assert watch.ended_calls == watch.submitted_calls
    assert watch.outcomes == [
        ("echo", "completed", None),
        ("run_fault", "failed", "ZeroDivisionError"),
        ("run_fault", "crashed", "WorkerCrashedError"),
        ("hold", "cancelled", "CancelledError"),
        ("echo", "not_started", "DeadlineError"),
        ("words", "completed", None),
    ]
    done, _, crashed, _, late, _ = watch.ended_calls
    assert done.pool == pool.name
    assert done.queued_at <= done.started_at <= done.ended_at
    assert done.attempts == 1
    assert done.worker_pid is not None
    assert crashed.attempts == 2
    assert (late.started_at, late.attempts, late.worker_pid) == (0.0, 0, None)

    end()
    assert await offload(pool=pool)(pool_functions.echo)(1) == 1
    assert len(watch.ended_calls) == 6


async def test_observer_that_is_given_twice_is_told_twice(pool: Pool) -> None:
    """Each time is taken back by itself, and only once."""
    watch = Watch()
    ends = [pool.observe(watch) for _ in range(2)]
    echo = offload(pool=pool)(pool_functions.echo)
    try:
        await echo(1)
        ends[0]()
        ends[0]()
        await echo(2)
    finally:
        ends[1]()
    await echo(3)
    assert len(watch.ended_calls) == 3


async def test_observer_of_all_pools_hears_of_later_ones() -> None:
    """What is installed once sees every pool of the process, until it is taken back."""
    watch = Watch()
    end = Pool.observe_all(watch)
    try:
        pool = Pool("later", max_workers=1, os_priority="normal")
        async with pool:
            await pool.run(pool_functions.echo, 1)
            end()
            await pool.run(pool_functions.echo, 2)
    finally:
        end()
        inside.forget("later")
    assert [call.pool for call in watch.ended_calls] == ["later"]


async def test_carrier_surrounds_the_function_in_its_worker(pool: Pool) -> None:
    """The hook that a carrier names is entered around the run, and told how it ended."""
    pool.observe(Watch({"hook": "tests.support.functions.observers", "word": "hello"}))
    assert await pool.run(observed.word) == "hello"
    with pytest.raises(ZeroDivisionError, match="hello"):
        await pool.run(observed.fail)
    stream = offload(pool=pool)(observed.words).stream(3)
    assert [item async for item in stream] == ["hello"] * 3
    how = await pool.run(observed.how_it_was_left)
    assert how == ["returned", "failed", "returned"]


async def test_broken_observer_costs_a_log_record_and_no_call(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """What an observer or its hook raises is logged; the call has its result."""

    class Broken:
        def submitted(self, call: CallRecord) -> dict[str, str]:
            raise RuntimeError("submitted")

        def ended(self, call: CallRecord) -> None:
            raise RuntimeError("ended")

    with caplog.at_level(logging.ERROR, "offload"):
        pool.observe(Broken())
        pool.observe(Watch({"hook": "no.such.module"}))
        assert await pool.run(pool_functions.echo, 1) == 1
        await until(lambda: len(caplog.records) == 3)
    names = {record.name for record in caplog.records}
    assert names == {"offload.pool", "offload.workers"}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestWatcher:
    async def test_observer_that_comes_with_the_first_call_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An observer that is added while a pool's engine is being made hears of its calls."""
        async with Pool("races observed", max_workers=1) as shared_pool:
            pass
        watcher = Watcher(iter([None]))
        added = threading.Thread(target=shared_pool.observe, args=(watcher,))

        def add_meanwhile() -> None:
            added.start()
            added.join(0.2)  # it waits for the engine, or is too early for it

        inside.make_engines_slowly(monkeypatch, shared_pool, add_meanwhile)
        async with shared_pool:
            await asyncio.to_thread(added.join)
            await shared_pool.run(pool_functions.echo, 1)
        assert watcher.ended_calls == ["completed"]

    async def test_carrier_that_is_no_mapping_costs_no_call(
        self, shared_pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An observer that returns nonsense is logged, and told of the end as ever."""
        watcher = Watcher(iter(["nonsense"]))
        end = shared_pool.observe(watcher)
        try:
            assert await shared_pool.run(pool_functions.echo, 1) == 1
        finally:
            end()
        assert watcher.ended_calls == ["completed"]
        assert "an observer of pool 'races' failed" in caplog.text

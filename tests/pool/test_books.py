"""What a pool tells of its calls, to whoever looks and to observers; and what stops them."""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import (
    CallRecord,
    DeadlineError,
    Pool,
    PoolClosedError,
    QueueFullError,
    TaskKilledError,
    TaskTimeoutError,
    WorkerCrashedError,
    offload,
)
from tests.support import inside
from tests.support.functions import observers as observed
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE, Fifo, gone, until

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


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Callable[[str], Fifo]]:
    """Makes named pipes."""
    made = []

    def make(name: str) -> Fifo:
        made.append(Fifo(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        each.__exit__()


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


# --- statistics ---


async def test_functions_have_accounts_of_their_own(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """Calls, times and what went wrong are counted by function, and add up to the pool's."""
    report = fifo("report")
    for number in range(3):
        assert await offload(pool=pool)(functions.echo)(number) == number
    with pytest.raises(ZeroDivisionError):
        await pool.run(functions.run_fault, "raise", report.path)
    with pytest.raises(WorkerCrashedError):
        await pool.run(functions.run_fault, "SIGKILL", report.path)

    echoes, faults = account(pool, functions.echo), account(pool, functions.run_fault)
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
        group.start_soon(pool.run, functions.hold, entered.path, gate.path)
        await entered.heard()
        group.start_soon(pool.run, functions.echo, 1)
        await until(lambda: pool.statistics().queued == 1)
        held, waits = account(pool, functions.hold), account(pool, functions.echo)
        assert (held.running, held.queued) == (1, 0)
        assert (waits.running, waits.queued) == (0, 1)
        with pytest.raises(QueueFullError):
            await pool.run(functions.echo, 2)
        assert account(pool, functions.echo).refused == 1
        gate.let()
    assert account(pool, functions.echo).completed == 1


async def test_last_failures_are_kept_with_their_tracebacks(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """Each failure is kept: what, when, of which worker; a cancelled call is none."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    pid = await pool.run(functions.pid)
    with pytest.raises(ZeroDivisionError):
        await offload(pool=pool)(functions.run_fault)("raise", report.path)
    with pytest.raises(TaskTimeoutError):
        await offload(pool=pool, timeout=0.05)(functions.hold)(entered.path, gate.path)
    with anyio.move_on_after(0) as scope:
        await pool.run(functions.hold, entered.path, gate.path)
    assert scope.cancelled_caught
    with pytest.raises(DeadlineError):
        await offload(pool=pool, deadline=1.0)(functions.echo)(1)

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


# --- by hand ---


async def test_task_stopped_by_hand_tells_its_caller(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`kill_task` ends one task; its caller hears who did it, and the pool goes on."""
    entered, gate = fifo("entered"), fifo("gate")
    errors: list[TaskKilledError] = []

    async def call() -> None:
        with pytest.raises(TaskKilledError) as caught:
            await pool.run(functions.hold, entered.path, gate.path)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.kill_task(pid)
    assert errors[0].pid == pid
    assert "ran in part" in str(errors[0])
    await gone(pid)
    assert await pool.run(functions.echo, 1) == 1
    assert account(pool, functions.hold).cancelled == 1
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
        results.append(await pool.run(functions.hold, entered.path, gate.path))

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        pid = await entered.heard()
        assert pool.recycle(pid)
        (worker,) = [each for each in pool.statistics().workers if each.pid == pid]
        assert (worker.state, worker.recycling) == ("busy", True)
        gate.let()
    assert results == [(None, pid)]
    await gone(pid)
    assert await pool.run(functions.pid) != pid


async def test_drain_by_hand_refuses_new_calls_until_opened(
    pool: Pool, fifo: Callable[[str], Fifo]
) -> None:
    """`drain` lets what is there end, refuses what is new, and `open` takes it back."""
    entered, gate = fifo("entered"), fifo("gate")
    async with anyio.create_task_group() as group:
        group.start_soon(pool.run, functions.hold, entered.path, gate.path)
        await entered.heard()
        pool.stop_accepting()
        assert pool.statistics().state == "draining"
        with pytest.raises(PoolClosedError):
            await pool.run(functions.echo, 1)
        gate.let()
    assert account(pool, functions.hold).completed == 1
    await pool.open()
    assert await pool.run(functions.echo, 1) == 1


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


# --- observers ---


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


async def test_observer_hears_of_each_call_once(pool: Pool, fifo: Callable[[str], Fifo]) -> None:
    """Whatever becomes of a call, its observer is told of its making and of its end."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    watch = Watch()
    end = pool.observe(watch)
    assert await offload(pool=pool)(functions.echo)(1) == 1
    with pytest.raises(ZeroDivisionError):
        await pool.run(functions.run_fault, "raise", report.path)
    with pytest.raises(WorkerCrashedError):
        await offload(pool=pool, max_crash_retries=1)(functions.run_fault)("SIGKILL", report.path)
    with anyio.move_on_after(0):
        await pool.run(functions.hold, entered.path, gate.path)
    with pytest.raises(DeadlineError):
        await offload(pool=pool, deadline=1.0)(functions.echo)(1)
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
    assert await offload(pool=pool)(functions.echo)(1) == 1
    assert len(watch.ended_calls) == 6


async def test_observer_that_is_given_twice_is_told_twice(pool: Pool) -> None:
    """Each time is taken back by itself, and only once."""
    watch = Watch()
    ends = [pool.observe(watch) for _ in range(2)]
    echo = offload(pool=pool)(functions.echo)
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
            await pool.run(functions.echo, 1)
            end()
            await pool.run(functions.echo, 2)
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
        assert await pool.run(functions.echo, 1) == 1
        await until(lambda: len(caplog.records) == 3)
    names = {record.name for record in caplog.records}
    assert names == {"offload.pool", "offload.workers"}

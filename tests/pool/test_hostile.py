"""Hostile code and hostile moments: none of it ends the server, hangs, or reaches another call."""

import asyncio
import contextlib
import enum
import importlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import update_wrapper
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import (
    DeadlineError,
    Pool,
    PoolClosedError,
    RemoteError,
    ResultError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
    deadline_after,
    offload,
)
from offload._pool.single_flight import SingleFlight
from offload._wire.frames import Flag, Frame, Kind, anonymous_file
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import hostile as functions
from tests.support.functions import hostile_module
from tests.support.functions import pool as pool_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, gone_now, is_alive, parent_of, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


@pytest.fixture
async def pool() -> Any:
    """A pool of one worker: what one call spoils, the next one meets."""
    async with Pool("hostile", max_workers=1, spare_workers=0, os_priority="normal") as pool:
        yield pool


class Handler(logging.Handler):
    """Handles the records of the hostile functions in some way, and keeps them."""

    def __init__(self, act: Callable[[logging.LogRecord], object]) -> None:
        super().__init__()
        self.act = act
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.act(record)


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], Handler]]:
    """Installs a handler for the records of the hostile functions."""
    installed = []

    def install(act: Callable[[logging.LogRecord], object]) -> Handler:
        handler = Handler(act)
        installed.append(handler)
        functions.logger.addHandler(handler)
        return handler

    functions.logger.setLevel(logging.INFO)
    functions.logger.propagate = False
    yield install
    functions.logger.setLevel(logging.NOTSET)
    functions.logger.propagate = True
    for handler in installed:
        functions.logger.removeHandler(handler)


# --- what comes back from a worker ---


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_result_that_exits_when_unpickled_is_an_error(pool: Pool) -> None:
    """A pickle may call `sys.exit`; the server goes on, and so do the threads of ours."""
    with pytest.raises(ResultError, match="SystemExit"):
        await pool.run(functions.return_exit)
    assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(3)
async def test_progress_that_exits_when_unpickled_costs_itself(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the result arrives."""
    result = await call(pool, functions.report_exit, on_progress=lambda *_: None)
    assert result == "went on"
    assert "on_progress" in caplog.text


@pytest.mark.guarantee(3)
async def test_exception_that_is_an_exit_as_well_is_a_remote_error(pool: Pool) -> None:
    """A class may be both; nothing that ends a server is raised in it."""
    with pytest.raises(RemoteError, match="both"):
        await pool.run(functions.raise_both)


@pytest.mark.guarantee(1)
async def test_large_exception_leaves_the_loop_free(pool: Pool) -> None:
    """Megabytes in an exception are unpickled off the loop, in turns with it."""
    with pytest.raises(functions.LargeError) as caught:
        await pool.run(functions.raise_large, 30_000)
    assert len(caught.value.args[0]) == 30_000


async def test_cancelled_error_of_a_progress_callback_loses_no_result(pool: Pool) -> None:
    """A callback that meets a cancelled future costs itself, though the result came with it."""
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    calling = asyncio.ensure_future(
        call(pool, functions.report_then_return, on_progress=lambda *_: cancelled.result())
    )
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the loop is busy: both arrive at once
    with anyio.fail_after(PATIENCE):
        assert await calling == "result"


async def test_end_is_reported_once(pool: Pool) -> None:
    """Reports of the end are told once, and reports without a total now and then, like others."""
    told: list[tuple[float, float | None]] = []
    await call(
        pool, functions.report_the_end, 20_000, on_progress=lambda *report: told.append(report)
    )
    assert told.count((5.0, 5.0)) < 10
    assert len(told) < 50


@pytest.mark.guarantee(8)
async def test_record_that_was_cut_in_half_ends_its_worker(
    pool: Pool, entered: Fifo, handled: Any
) -> None:
    """What follows half a frame would be read as the rest of it: the caller is told, at once."""
    handled(lambda _: None)
    calling = asyncio.ensure_future(pool.run(functions.cut_a_record, entered.path))
    await asyncio.sleep(0)
    await asyncio.to_thread(entered.heard_now)
    time.sleep(0.6)  # noqa: ASYNC251 - the loop is busy, and the socket full
    with anyio.fail_after(PATIENCE):
        # The alarm may also come between two records.
        with contextlib.suppress(WorkerCrashedError):
            assert await calling == "late"
        assert await pool.run(pool_functions.echo, 1) == 1


async def test_child_that_returns_as_well_says_nothing(tmp_path: Path) -> None:
    """A function that forks and returns twice has one result, and no traceback on stderr."""
    script = (
        "import asyncio\n"
        "from offload import Pool\n"
        "from tests.support.functions import hostile as hostile_functions\n"
        "async def main():\n"
        "    async with Pool('forks', max_workers=1) as pool:\n"
        "        assert await pool.run(hostile_functions.fork_and_return)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- log handlers of the server ---


@pytest.mark.guarantee(3)
async def test_log_handler_that_exits_stops_nothing(pool: Pool, handled: Any) -> None:
    """`sys.exit()` in a handler ends no thread of ours: workers are still replaced."""
    handler = handled(lambda _: sys.exit(1))
    for _ in range(3):
        pid = await pool.run(pool_functions.pid)
        await pool.run(functions.log, logging.CRITICAL)
        assert pool.recycle(pid)
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.pid) != pid
    await until(lambda: len(handler.records) == 3)


@pytest.mark.guarantee(3)
async def test_log_handler_that_raises_does_not_keep_workers_from_starting(handled: Any) -> None:
    """What an initializer logs and a handler cannot handle is lost, and the worker comes up."""

    def fail(_: logging.LogRecord) -> None:
        raise RuntimeError("this handler never works")

    handler = handled(fail)
    async with Pool(
        "hostile starts",
        max_workers=1,
        spare_workers=0,
        initializer=functions.log,
        initargs=(logging.WARNING, 5),
    ) as pool:
        assert await pool.run(pool_functions.echo, 1) == 1
    assert len(handler.records) == 5


@pytest.mark.guarantee(4)
async def test_slow_log_handler_delays_no_kill(pool: Pool, handled: Any) -> None:
    """A handler that takes its time keeps neither workers from ending nor others from starting."""
    free = threading.Event()
    handled(lambda _: free.wait(PATIENCE))
    try:
        await pool.run(functions.log, logging.WARNING, 20)
        pid = await pool.run(pool_functions.pid)
        with pytest.raises(TaskTimeoutError):
            await call(pool, pool_functions.run_fault, "hang in Python", os.devnull, timeout=0.2)
        await gone(pid)
        assert await pool.run(pool_functions.echo, 1) == 1
    finally:
        free.set()


@pytest.mark.guarantee(6)
async def test_records_that_nobody_handles_are_bounded(
    pool: Pool, handled: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Records beyond what may wait for slow handlers are dropped, counted and told."""
    inside.limit_log_queue(monkeypatch, 1 << 20)
    free = threading.Event()
    handler = handled(lambda _: free.wait(PATIENCE))
    try:
        await pool.run(functions.log_large, 100, 50_000)
    finally:
        free.set()
    await until(lambda: "log records of workers were dropped" in caplog.text)
    assert 0 < len(handler.records) < 100


@pytest.mark.guarantee(8)
async def test_module_that_configures_logging_does_not_take_the_records(
    handled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers that replaced ours at an import in the worker are those of the server, once more."""
    handler = handled(lambda _: None)
    path = tmp_path / "log"
    # Here it is imported too, by its name: whatever that does to the handlers is taken back.
    monkeypatch.setenv("HOSTILE_LOG", os.devnull)
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    module = importlib.import_module("tests.support.functions.hostile_logging")
    for each in logging.root.handlers:
        each.close()
    monkeypatch.undo()
    async with Pool("hostile logging", max_workers=1, env={"HOSTILE_LOG": str(path)}) as pool:
        await pool.run(module.log, "heard")
    assert [record.getMessage() for record in handler.records] == ["heard"]
    assert path.read_text() == ""


async def test_logging_that_an_initializer_sets_up_stays(handled: Any, tmp_path: Path) -> None:
    """A log of its own is what a user may want for a worker; no import takes it away."""
    handler = handled(lambda _: None)
    path = tmp_path / "log"
    async with Pool(
        "hostile initializer",
        max_workers=1,
        initializer=functions.log_to_a_file,
        initargs=(str(path),),
    ) as pool:
        await pool.run(functions.log, logging.WARNING)
        await pool.run(pool_functions.echo, 1)
        await pool.run(functions.log, logging.WARNING)
    assert path.read_text().count("record 0") == 2
    assert not handler.records


# --- threads and moments ---


@pytest.mark.guarantee(3)
async def test_callback_of_a_future_that_exits_stops_nothing(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """`sys.exit()` in `add_done_callback` ends no thread of ours."""
    executor = pool.executor()
    future = executor.submit(pool_functions.echo, 1)
    future.add_done_callback(lambda _: sys.exit(1))
    # By a thread: stdlib calls no further callbacks after one that exits.
    assert await asyncio.to_thread(future.result, PATIENCE) == 1
    again = executor.submit(pool_functions.echo, 2)
    assert await asyncio.to_thread(again.result, PATIENCE) == 2
    assert "a callback of a future" in caplog.text


async def test_executor_minds_the_deadline_of_the_block(pool: Pool) -> None:
    """`deadline_after` holds for calls by way of `pool.executor()` as well."""
    executor = pool.executor()
    with deadline_after(0.2):
        future = executor.submit(time.sleep, 30.0)
    with pytest.raises(DeadlineError):
        await asyncio.wrap_future(future)


@pytest.mark.guarantee(5)
async def test_close_with_replies_unread_tells_every_caller() -> None:
    """Workers that end while the pool closes take neither the close nor their callers along."""
    for number in range(8):
        pool = Pool(f"hostile close {number}", max_workers=3, os_priority="normal")
        await pool.open()
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(pool.run, time.sleep, 0.01)
        calls = [asyncio.ensure_future(pool.run(time.sleep, 0.01)) for _ in range(3)]
        await asyncio.sleep(0.001)
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is busy: replies wait in the sockets
        with anyio.fail_after(PATIENCE):
            await pool.aclose(drain=0.0)
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(end, PoolClosedError) or end is None for end in ends)
        inside.forget(pool)


@pytest.mark.guarantee(3)
async def test_call_that_was_assigned_twice_is_sent_once(tmp_path: Path) -> None:
    """A worker that dies between assignment and sending costs nothing, and nothing runs twice."""
    path = tmp_path / "ran"
    async with Pool("hostile assign", max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(pool_functions.pid)
        blocker = asyncio.ensure_future(pool.run(time.sleep, 0.3))
        noted = asyncio.ensure_future(pool.run(pool_functions.note, str(path), "ran"))
        await until(lambda: pool.statistics().queued == 1)

        def kill_when_assigned() -> None:
            # On another thread, as from another event loop: the assignment is only on its way.
            deadline = time.monotonic() + PATIENCE
            inside.cancel_running(pool)
            while time.monotonic() < deadline:
                others = inside.pids_with_task(pool)
                if others and others[0] not in (None, pid):
                    break
                time.sleep(0.001)
            first = others[0]
            os.kill(first, signal.SIGKILL)
            while time.monotonic() < deadline:
                others = inside.pids_with_task(pool)
                if others and others[0] not in (None, pid, first):
                    return
                time.sleep(0.001)

        thread = threading.Thread(target=kill_when_assigned)
        thread.start()
        thread.join()  # the loop is held meanwhile
        with anyio.fail_after(PATIENCE):
            await noted
        blocker.cancel()
    assert path.read_text() == "ran\n"


@pytest.mark.guarantee(5)
async def test_call_that_the_collector_drops_waits_for_no_lock(pool: Pool) -> None:
    """The collector may run while this very thread decides for the pool: it only leaves word."""
    calls = [pool.run(time.sleep, 30.0) for _ in range(2)]  # one that runs, one that waits
    for each in calls:
        each.send(None)
    await until(lambda: pool.statistics().busy == 1 and pool.statistics().queued == 1)
    with inside.lock_held(pool):
        for each in calls:
            each.close()
    await until(lambda: not (pool.statistics().busy or pool.statistics().queued))
    assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("turns", range(6))
async def test_newcomer_has_a_run_of_its_own_when_the_last_one_leaves(turns: int) -> None:
    """A shared result whose file was closed with its last caller is nobody else's."""
    flights, made = SingleFlight(), []
    loop = asyncio.get_running_loop()
    gates = [loop.create_future() for _ in range(2)]

    async def begin(_: Any) -> Any:
        gate = gates[len(made)]
        descriptor = anonymous_file()
        os.write(descriptor, b"%d" % len(made))
        made.append(descriptor)
        await gate
        return Frame(Kind.RESULT, Flag.LARGE, b"", descriptor)

    options: Any = inside.resolved(Pool.named(), single_flight=True)
    first = asyncio.ensure_future(flights.join(b"same", options, begin))
    await asyncio.sleep(0.001)
    gates[0].set_result(None)
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.ensure_future(flights.join(b"same", options, begin))
    await asyncio.sleep(0.001)
    gates[1].set_result(None)
    replies = await asyncio.gather(first, second, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, Frame):
            assert reply.descriptor is not None
            assert os.pread(reply.descriptor, 10, 0) in (b"0", b"1")
            reply.close()
    assert isinstance(replies[1], Frame)
    # Each run's own was closed with its last caller.
    for descriptor in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# --- starts ---


@pytest.mark.guarantee(3)
async def test_death_of_a_supervisor_while_workers_start_is_one_failure() -> None:
    """All that were on their way fail at once; calls wait for the next attempt."""
    async with anyio.create_task_group() as group:
        pool = Pool("hostile supervisor", max_workers=4, os_priority="normal")
        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await pool.run(pool_functions.echo, number))

        for number in range(20):
            group.start_soon(one, number)
        await until(lambda: inside.supervisor_pid(pool))
        os.kill(inside.supervisor_pid(pool), signal.SIGKILL)
    await pool.aclose()
    inside.forget(pool)
    assert sorted(results) == list(range(20))


@pytest.mark.guarantee(5)
async def test_odd_surroundings_start_workers_or_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other code makes of `sys.argv` and `sys.path`, and options that are enumerations."""

    class Priority(enum.StrEnum):
        LOW = "low"

    class Size(enum.IntEnum):
        GIB = 1 << 30

    monkeypatch.setattr(sys, "argv", [Path("program"), Priority.LOW])
    monkeypatch.setattr(sys, "path", [*sys.path, None, Path("nowhere")])
    async with Pool(
        "hostile surroundings",
        max_workers=1,
        os_priority=Priority.LOW,  # type: ignore[arg-type]
        max_worker_memory_bytes=Size.GIB,
    ) as pool:
        assert await pool.run(pool_functions.echo, 1) == 1
    with pytest.raises(ValueError, match="env cannot hold"):
        Pool("hostile environment", env={"NAME": "\ud800"})


@pytest.mark.guarantee(3)
async def test_module_that_exits_in_a_worker_costs_its_own_calls(pool: Pool) -> None:
    """Workers that are started later do without it."""
    with pytest.raises(Exception, match="not here"):
        await pool.run(hostile_module.function)
    for _ in range(2):
        assert pool.recycle(await pool.run(pool_functions.pid))
        assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(7)
async def test_close_ends_a_supervisor_that_is_stopped() -> None:
    """Nothing is left, though who should end the workers does nothing."""
    pool = Pool("hostile stop", max_workers=1, os_priority="normal")
    await pool.open()
    pid = await pool.run(pool_functions.pid)
    supervisor = parent_of(pid)
    os.kill(supervisor, signal.SIGSTOP)
    with anyio.fail_after(PATIENCE):
        await pool.aclose(drain=0.0)
    await gone(pid, supervisor)
    assert not is_alive(supervisor)
    inside.forget(pool)


@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("a handler that blocks the event loop is what this is about")
async def test_timeout_holds_while_the_loop_is_held(pool: Pool, entered: Fifo) -> None:
    """A function is stopped on time though its event loop cannot come to it."""
    calling = asyncio.ensure_future(
        call(pool, pool_functions.run_fault, "hang in Python", entered.path, timeout=0.3)
    )
    await asyncio.sleep(0)
    pid = entered.heard_now()  # blocks, and so does the next line
    assert gone_now(pid, seconds=10.0) == []
    with pytest.raises(TaskTimeoutError, match="ran in part"):
        await calling
    assert pool.statistics().timed_out == 1


@pytest.mark.guarantee(4)
async def test_timeout_holds_on_a_loop_that_is_paused(pool: Pool, entered: Fifo) -> None:
    """A loop that is run in steps, as in a notebook, does not keep a worker from the others."""
    paused = asyncio.new_event_loop()
    try:
        calling = paused.create_task(
            call(pool, pool_functions.run_fault, "hang in Python", entered.path, timeout=0.3)
        )
        await asyncio.to_thread(paused.run_until_complete, asyncio.sleep(0.05))
        await entered.heard()
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.echo, 1) == 1
        with pytest.raises(TaskTimeoutError):
            await asyncio.to_thread(paused.run_until_complete, calling)
    finally:
        paused.close()


# --- calls that are dropped, and closes ---


@pytest.mark.guarantee(3)
async def test_dropped_call_keeps_its_file_until_it_has_left(pool: Pool) -> None:
    """A worker that becomes free in that moment is not sent a descriptor of somebody else's."""
    first = asyncio.ensure_future(pool.run(time.sleep, 0.1))
    await until(lambda: pool.statistics().busy)
    kept: list[int] = []
    dropped = pool.run(pool_functions.length, b"x" * 3_000_000)
    waiting = dropped.send(None)
    while not pool.statistics().queued:
        # As an asyncio task would, when what it waits for has come.
        await asyncio.wait({waiting})
        waiting = dropped.send(None)
    time.sleep(0.3)  # noqa: ASYNC251 - the reply of the first one waits in the socket

    def drop() -> None:
        dropped.close()
        kept.extend(open_files())

    asyncio.get_running_loop().call_soon(drop)
    await first
    await until(lambda: not (pool.statistics().busy or pool.statistics().queued))
    assert len(kept) == 1
    await until(lambda: not open_files())
    assert await pool.run(pool_functions.echo, 1) == 1
    assert pool.statistics().crashed == 0


@pytest.mark.guarantee(7)
async def test_coroutine_that_is_closed_while_it_is_pickled_leaves_no_file() -> None:
    """What a thread has made of its arguments is closed when it is made."""
    async with Pool("hostile pickling", max_workers=1) as pool:
        await pool.run(pool_functions.echo, 1)
        for _ in range(5):
            calling = pool.run(pool_functions.length, bytearray(8_000_000))
            calling.send(None)
            calling.close()
        await until(lambda: not open_files())


@pytest.mark.guarantee(7)
async def test_close_does_not_wait_for_exit_hooks_and_ends_children() -> None:
    """An idle worker has a second to end; then it is killed, with children in other sessions."""
    pool = Pool("hostile end", max_workers=1, spare_workers=0, os_priority="normal")
    pid, child = await pool.run(functions.start_a_session_and_end_slowly)
    began = time.monotonic()
    await pool.aclose(drain=0.0)
    assert time.monotonic() - began < 10.0
    assert not is_alive(pid)
    await gone(child)
    inside.forget(pool)


@pytest.mark.guarantee(5)
async def test_close_says_of_a_call_on_its_way_that_it_did_not_run(
    entered: Fifo, gate: Fifo
) -> None:
    """A call that a worker was assigned, and was not sent, has not run in part."""
    pool = Pool("hostile way", max_workers=1, spare_workers=0)
    first = asyncio.ensure_future(pool.run(pool_functions.hold, entered.path, gate.path))
    await entered.heard()
    second = asyncio.ensure_future(pool.run(pool_functions.echo, 1))
    await until(lambda: pool.statistics().queued)

    def kill_when_assigned() -> None:
        deadline = time.monotonic() + PATIENCE
        inside.cancel_running(pool)
        while not inside.has_running(pool) and time.monotonic() < deadline:
            time.sleep(0.001)
        pool.kill().result(PATIENCE)

    thread = threading.Thread(target=kill_when_assigned)
    thread.start()
    thread.join()  # the loop is held meanwhile
    with pytest.raises(PoolClosedError, match="did not run") as caught:
        await second
    assert not caught.value.may_have_run
    first.cancel()
    inside.forget(pool)


@pytest.mark.guarantee(7)
@pytest.mark.holds_loop("a lock that its own thread holds is waited for, half a second")
async def test_kill_from_a_signal_handler_waits_for_no_lock() -> None:
    """The handler runs on a thread that may be deciding something for this very pool."""
    pool = Pool("hostile signal", max_workers=1)
    pid = await pool.run(pool_functions.pid)
    with inside.every_lock_held(pool):  # as if the signal came here
        killed = pool.kill()
    await asyncio.wrap_future(killed)
    assert not is_alive(pid)
    inside.forget(pool)


async def test_pool_whose_name_was_given_away_is_still_closed_at_exit() -> None:
    """All pools are met when the process forks or ends, whoever has their name by then."""
    first = Pool("hostile name")
    await first.aclose()
    second = Pool("hostile name")
    assert {first, second} <= inside.everyone()
    inside.forget("hostile name")


# --- executors, threads that cannot be had ---


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
async def test_exception_that_exits_in_its_text_is_no_exit_of_the_server() -> None:
    """In a thread of the server as in a worker."""
    for executor in (None, ThreadPoolExecutor):
        async with Pool("hostile text", max_workers=1, executor=executor) as pool:
            with pytest.raises((RemoteError, functions.ExitsInText)):
                await pool.run(functions.raise_exit_in_text)
            assert await pool.run(pool_functions.echo, 1) == 1
        inside.forget("hostile text")


@pytest.mark.guarantee(5)
@pytest.mark.parametrize("name", ["offload-keeper", "offload-start", "offload-logs"])
async def test_thread_that_cannot_be_had_is_had_later(
    monkeypatch: pytest.MonkeyPatch, handled: Any, name: str
) -> None:
    """A limit that is reached once fails what it meets, and nothing after that."""
    start, failed = threading.Thread.start, []

    def fail_once(thread: threading.Thread) -> None:
        if thread.name == name and not failed:
            failed.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    handler = handled(lambda _: None)
    monkeypatch.setattr(threading.Thread, "start", fail_once)
    executor = ThreadPoolExecutor if name == "offload-start" else None
    pool = Pool(f"hostile {name}", max_workers=1, executor=executor)
    try:
        with anyio.fail_after(PATIENCE):
            with contextlib.suppress(RuntimeError):
                await pool.run(pool_functions.echo, 1)
            assert await pool.run(pool_functions.echo, 2) == 2
            if executor is None:
                for _ in range(2):
                    await pool.run(functions.log, logging.WARNING)
                await until(lambda: handler.records)
    finally:
        await pool.aclose()
        inside.forget(pool)
    assert failed


# --- opening, and what is counted ---


@pytest.mark.guarantee(5)
async def test_open_ends_where_only_some_workers_come_up(tmp_path: Path) -> None:
    """A pool that has one of two workers works; it does not keep a server from starting."""
    path = str(tmp_path / "first")
    pool = Pool(
        "hostile few",
        min_workers=2,
        max_workers=2,
        initializer=functions.only_the_first,
        initargs=(path,),
    )
    with anyio.fail_after(PATIENCE):
        await pool.open()
        assert await pool.run(pool_functions.echo, 1) == 1
    await pool.aclose()
    inside.forget(pool)


@pytest.mark.guarantee(5)
async def test_error_that_cannot_be_encoded_is_told_all_the_same() -> None:
    """Texts with surrogates, as names of files have them, reach the caller."""
    pool = Pool("hostile error", max_workers=1, initializer=functions.fail_unspeakably)
    with pytest.raises(WorkerStartError, match=r"bad .udcff name"):
        await pool.run(pool_functions.echo, 1)
    await pool.aclose()
    inside.forget(pool)


async def test_module_of_context_variables_may_use_pools() -> None:
    """It is imported at the first call, and may look at that very pool."""
    async with Pool(
        "hostile context",
        max_workers=1,
        context_vars=["tests.support.functions.hostile_context:variable"],
    ) as pool:
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.echo, 1) == 1
    sys.modules["tests.support.functions.hostile_context"].end()


@pytest.mark.guarantee(6)
async def test_identical_call_takes_no_place_in_a_full_queue(entered: Fifo, gate: Fifo) -> None:
    """A storm of identical calls shares one run, however small the queue."""
    async with Pool("hostile storm", max_workers=1, max_queued=0) as pool:
        calls = [
            asyncio.ensure_future(
                call(pool, pool_functions.hold, entered.path, gate.path, single_flight=True)
            )
            for _ in range(5)
        ]
        await entered.heard()
        gate.let()
        results = await asyncio.gather(*calls)
    assert len({pid for _, pid in results}) == 1


async def test_function_sent_by_value_has_one_account(tmp_path: Path) -> None:
    """However often a global that it refers to changes, and its pickle with that."""
    script = (
        "import asyncio\n"
        "from offload import Pool, offload\n"
        "from offload._child import functions\n"
        "pool = Pool('values', max_workers=1, spare_workers=0)\n"
        "state = 0\n"
        "def read():\n"
        "    from offload._child import functions\n"
        "    return state, len(functions._by_value)\n"
        "async def main():\n"
        "    global state\n"
        "    async with pool:\n"
        "        for state in range(40):\n"
        "            seen, kept = await pool.run(read)\n"
        "            assert seen == state and kept <= 16\n"
        "        (account,) = pool.statistics().functions\n"
        "        assert account.completed == 40\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- fixes of fixes ---


@pytest.mark.guarantee(5)
@pytest.mark.holds_loop("a handler that blocks the event loop is what this is about")
async def test_reply_that_came_in_time_is_no_timeout(pool: Pool) -> None:
    """A loop that was held past the timeout of a call finds its result, and its worker."""
    pid = await pool.run(pool_functions.pid)
    calling = asyncio.ensure_future(call(pool, pool_functions.pid, timeout=0.3))
    await asyncio.sleep(0)
    time.sleep(1.8)  # noqa: ASYNC251 - longer than it takes the keeper to look
    assert await calling == pid
    assert await pool.run(pool_functions.pid) == pid
    assert pool.statistics().timed_out == 0


@pytest.mark.guarantee(3)
async def test_caller_of_a_shared_run_that_is_dropped_cancels_no_newcomer(pool: Pool) -> None:
    """Who joins before the dropped one has left keeps the run."""

    def shared() -> Any:
        return call(pool, pool_functions.echo, 1, single_flight=True)

    dropped = shared()
    dropped.send(None)
    dropped.close()
    assert await shared() == 1


@pytest.mark.guarantee(3)
async def test_callables_that_are_equal_are_still_two() -> None:
    """`Pool.run` runs the function that it was given, whatever that says of others."""

    class Equal:
        def __init__(self, function: Any) -> None:
            update_wrapper(self, function)
            self.function = function

        def __call__(self, *args: Any) -> Any:
            return self.function(*args)

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        def __hash__(self) -> int:
            return 1

    executor = ThreadPoolExecutor(1)
    async with Pool("hostile equal", max_workers=1, executor=executor) as pool:
        assert await pool.run(Equal(pool_functions.echo), 5) == 5
        assert await pool.run(Equal(pool_functions.length), [1, 2]) == 2
    executor.shutdown()


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


@pytest.mark.guarantee(5)
@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before 3.13 nothing is thrown into a generator then"
)
async def test_stream_that_the_collector_drops_waits_for_no_lock(pool: Pool) -> None:
    """From Python 3.13 on the collector ends one while it waits for an item."""
    stream: Any = inside.stream(pool, pool_functions.stream_slowly, 30.0)
    waiting = anext(stream)
    waiting.send(None)
    await until(lambda: pool.statistics().busy)
    with inside.lock_held(pool):
        waiting.close()
    with anyio.fail_after(PATIENCE):
        await until(lambda: not pool.statistics().busy)
        assert await pool.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("the second attempt waits for a loop that is held")
async def test_call_that_was_put_back_has_a_new_clock(pool: Pool) -> None:
    """Its worker died before receiving it: its timeout counts from the next one's receipt."""
    pid = await pool.run(pool_functions.pid)
    os.kill(pid, signal.SIGSTOP)
    calling = asyncio.ensure_future(call(pool, pool_functions.pid, timeout=1.0))
    await until(lambda: pool.statistics().busy)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: pool.statistics().queued)
    time.sleep(2.5)  # noqa: ASYNC251 - longer than the timeout, and than it takes to look
    assert await calling != pid


@pytest.mark.parametrize("how", ["sys.exit", "Ctrl+C"])
def test_signal_that_comes_while_a_result_is_unpickled_is_one(how: str) -> None:
    """`sys.exit()` of a handler ends the program, though a pickle that exits does not."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from offload import Pool\n"
        "from tests.support.functions import hostile as hostile_functions\n"
        "def leave(*_):\n"
        "    sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "async def main():\n"
        "    async with Pool('signals', max_workers=1) as pool:\n"
        f"        await pool.run(hostile_functions.return_signal, os.getpid(), {how!r})\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == (7 if how == "sys.exit" else -signal.SIGINT), done.stderr


async def test_limit_of_a_function_holds_whoever_called_it_first() -> None:
    """`Pool.run` knows no `max_concurrency`; a decorated function does, also if it comes later."""
    async with Pool("hostile limit", max_workers=2) as pool:
        limited = offload(pool=pool, max_concurrency=1)(pool_functions.echo)
        assert await pool.run(pool_functions.echo, 1) == 1
        assert await limited(2) == 2
        (account,) = pool.statistics().functions
    assert account.max_concurrency == 1


@pytest.mark.guarantee(7)
async def test_kill_that_finds_the_lock_taken_after_the_end_is_done() -> None:
    """Nobody is left to do anything then, and nothing is left to be done."""
    pool = Pool("hostile twice", max_workers=1)
    await pool.run(pool_functions.echo, 1)
    engine = inside.running_of(pool)
    await pool.aclose()
    assert inside.kill_under_its_lock(engine).done()

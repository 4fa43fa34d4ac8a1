"""Where threads, loops, contexts and other people's code meet: nothing falls in between."""

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import (
    ArgumentError,
    Pool,
    QueueFullError,
    QueueTimeoutError,
    TaskTimeoutError,
    WorkerStartError,
    offload,
)
from offload._pool import codec
from offload._pool.fanout import Width
from offload._wire.frames import anonymous_file
from offload._wire.payload import Request
from offload._wire.shared_file import SharedFile
from offload._workers.keeper import submit_once, threads
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import pool as pool_functions
from tests.support.functions import seams as functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, until

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


@pytest.fixture
async def pool() -> Any:
    """A pool of one worker."""
    async with Pool("seams", max_workers=1, spare_workers=0, os_priority="normal") as pool:
        yield pool


@pytest.fixture
def raising() -> Iterator[list[logging.LogRecord]]:
    """A handler of the library's own records that raises, as one of a user may."""
    records = []

    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            records.append(record)
            raise LookupError("of a handler")

    handler, logger = Handler(), logging.getLogger("offload")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def handled() -> Iterator[Callable[[Callable[[logging.LogRecord], object]], None]]:
    """Installs a handler for the records of functions."""
    handler, logger = logging.Handler(), functions.logger
    logger.propagate = False
    logger.addHandler(handler)

    def install(act: Callable[[logging.LogRecord], object]) -> None:
        handler.emit = act  # type: ignore[method-assign, assignment]

    yield install
    logger.removeHandler(handler)
    logger.propagate = True


def starting_none(prefix: str) -> Callable[[threading.Thread], None]:
    """Return a `Thread.start` as where there are no more threads of a name."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    return fail


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have no more threads of a name."""
    return lambda prefix: monkeypatch.setattr(threading.Thread, "start", starting_none(prefix))


# --- threads that cannot be had ---


@pytest.mark.guarantee(3)
def test_task_that_raised_when_submitted_does_not_run_later(
    no_thread: Callable[[str], None],
) -> None:
    """Stdlib queues first and starts a thread then: one that is there would run it after all."""
    gate, ran = threading.Event(), []
    with ThreadPoolExecutor(2, thread_name_prefix="seam") as executor:
        first = submit_once(executor, gate.wait)
        no_thread("seam")
        with pytest.raises(RuntimeError, match="can't start new thread"):
            submit_once(executor, ran.append, 1)
        gate.set()
        assert first.result(PATIENCE)
        assert submit_once(executor, len, "abc").result(PATIENCE) == 3
    assert ran == []


@pytest.mark.guarantee(5)
def test_task_that_its_executor_drops_is_cancelled() -> None:
    """Whoever waits for it is told, as by stdlib."""
    gate = threading.Event()
    executor = ThreadPoolExecutor(1)
    running, waiting = submit_once(executor, gate.wait), submit_once(executor, len, "")
    broken = ThreadPoolExecutor(1, initializer=int, initargs=("x",))
    failing = submit_once(broken, len, "")
    executor.shutdown(wait=False, cancel_futures=True)
    gate.set()
    assert running.result(PATIENCE)
    assert waiting.cancelled()
    assert failing.exception(PATIENCE) is not None


@pytest.mark.guarantee(3)
async def test_file_is_closed_once_where_threads_run_out(
    no_thread: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is closed twice is, the second time, somebody else's connection."""
    executor = ThreadPoolExecutor(2, thread_name_prefix="seam")
    inside.replace_payload_threads(monkeypatch, executor)
    gate = threading.Event()
    threads.submit(gate.wait)
    no_thread("seam")
    ours, theirs = os.pipe()
    codec.close_request(Request(b"", theirs, 64 * MIB))
    again = os.open(os.devnull, os.O_RDONLY)
    assert again == theirs, "the lowest number that is free"
    gate.set()
    executor.shutdown()  # when all that was queued has been run
    os.fstat(again)
    os.close(again)
    os.close(ours)


@pytest.mark.guarantee(5)
async def test_large_call_without_a_thread_is_refused_and_leaves_no_file(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error says what ran out; the next call is as any other."""
    inside.replace_payload_threads(monkeypatch, None)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", starting_none("offload-payload"))
        with pytest.raises(ArgumentError, match=r"did not run.*can't start new thread"):
            await pool.run(functions.size, bytes(8 * MIB))
    assert await pool.run(functions.size, bytes(8 * MIB)) == 8 * MIB
    await until(lambda: not open_files())


@pytest.mark.guarantee(3)
async def test_task_of_a_thread_pool_runs_once_where_threads_run_out(
    no_thread: Callable[[str], None], tmp_path: Path
) -> None:
    """A call that is put back is not run by the executor as well."""
    executor = ThreadPoolExecutor(3, thread_name_prefix="seam")
    gate = threading.Event()
    executor.submit(gate.wait)
    path = tmp_path / "ran"
    async with Pool("seam threads", max_workers=2, executor=executor) as pool:
        executor.submit(gate.wait)  # by now both of its threads are there, and have something to do
        no_thread("seam")
        calling = asyncio.ensure_future(pool.run(_append, str(path)))
        await asyncio.sleep(0.1)
        gate.set()
        with anyio.fail_after(PATIENCE):
            await calling
    executor.shutdown()
    assert path.read_text() == "x"


def _append(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("x")


# --- contexts ---


@pytest.mark.guarantee(8)
def test_items_of_two_maps_keep_their_contexts() -> None:
    """An item is begun when another has ended; it has the context of whoever wants it."""
    pool = Pool("seam map", max_workers=1, context_vars=["tests.support.functions.seams:tenant"])
    view = pool.executor()

    def run(name: str) -> list[tuple[int, str]]:
        functions.tenant.set(name)
        return list(view.map(functions.whose, range(12)))

    with ThreadPoolExecutor(2) as both:
        found = dict(zip("ab", both.map(run, "ab"), strict=True))
    assert found == {name: [(n, name) for n in range(12)] for name in "ab"}
    asyncio.run(pool.aclose())


@pytest.mark.guarantee(8)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_progress_is_told_in_the_context_of_its_caller(
    pool: Pool, entered: Fifo, tmp_path: Path
) -> None:
    """And not in that of the call that a worker was used for first."""
    told: list[str] = []

    async def ask(name: str, **options: Any) -> None:
        functions.tenant.set(name)
        await call(
            pool,
            functions.tell_progress,
            entered.path,
            gate.path,
            on_progress=lambda *_: told.append(functions.tenant.get()),
            **options,
        )

    with Fifo(tmp_path / "gate") as gate:
        for name in "ab":
            gate.let()
            async with anyio.create_task_group() as group:
                group.start_soon(ask, name)
        assert set(told[: len(told) // 2]) == {"a"}
        assert set(told[len(told) // 2 :]) == {"b"}
        told.clear()
        async with anyio.create_task_group() as group:
            for name in "cd":
                group.start_soon(partial(ask, name, single_flight=True))
            # Who joins after the report is told nothing of it.
            await until(lambda: inside.callers_of_flights(pool) == [2])
            gate.let()
    assert set(told) == {"c", "d"}


class Kept:
    """Something that a request has in its context."""


@pytest.mark.guarantee(6)
async def test_context_of_the_first_request_is_not_kept() -> None:
    """What is registered with a loop for a worker's life refers to nothing of a request."""
    gone: list[weakref.ref[Kept]] = []

    async def request(pool: Pool) -> None:
        kept = Kept()
        gone.append(weakref.ref(kept))
        functions.tenant.set(kept)  # type: ignore[arg-type]
        assert await pool.run(pool_functions.echo, 1) == 1

    async with Pool("seam context", max_workers=1, spare_workers=0) as pool:
        await asyncio.create_task(request(pool))
        await pool.run(pool_functions.echo, 2)
        gc.collect()
        assert [reference() for reference in gone] == [None]


# --- fan-outs ---


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("limits", [{"max_queued": 0}, {"max_queued_bytes": 3 * MIB}], ids=str)
async def test_map_is_not_refused_by_its_own_calls(limits: dict[str, int]) -> None:
    """A queue that is too short for all at once makes it narrower, and fails nothing."""
    async with Pool("seam fan-out", max_workers=2, **limits) as pool:  # type: ignore[arg-type]
        sizes = offload(pool=pool)(functions.size)
        items = [bytes(2 * MIB)] * 12
        with anyio.fail_after(PATIENCE):
            assert await sizes.map(items, max_concurrency=8) == [2 * MIB] * 12
            assert await sizes.map(items) == [2 * MIB] * 12

            def mapped() -> list[int]:
                return list(pool.executor().map(functions.size, items))

            assert await anyio.to_thread.run_sync(mapped) == [2 * MIB] * 12


@pytest.mark.guarantee(6)
async def test_map_is_refused_where_others_fill_the_queue(entered: Fifo) -> None:
    """There is nothing of its own to wait for."""
    async with Pool("seam full", max_workers=1, spare_workers=0, max_queued=0) as pool:
        running = asyncio.ensure_future(pool.run(functions.hang, entered.path))
        await entered.heard()
        sizes = offload(pool=pool)(functions.size)
        with pytest.raises(QueueFullError):
            await sizes.map([b"", b"", b""])
        with pytest.raises(QueueFullError):
            await anyio.to_thread.run_sync(
                lambda: list(pool.executor().map(functions.size, [b"", b""]))
            )
        running.cancel()


@pytest.mark.guarantee(6)
def test_width_of_a_fan_out_comes_back() -> None:
    """After a short overload all workers are soon busy again."""
    width = Width(10)
    for under_way in range(9, 0, -1):
        width.refused(under_way)
    assert width.now == 1
    ended = 0
    while width.now < 10:
        width.ended()
        ended += 1
    assert ended < 200
    assert not width.ended()


# --- the end of a worker is told, whoever is busy or raises ---


@pytest.mark.guarantee(7)
@pytest.mark.holds_loop("that is the matter")
async def test_kill_on_a_loop_that_has_not_heard_of_a_death_ends(entered: Fifo) -> None:
    """A worker died while its loop was held, and that very loop now waits for the end of all."""
    pool = Pool("seam death", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(pool.run(functions.hang, entered.path))
    pid = await entered.heard()
    os.kill(pid, 9)
    deadline = time.monotonic() + PATIENCE
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)  # noqa: ASYNC251 - the loop is held, by intent
    time.sleep(0.3)  # noqa: ASYNC251 - and the keeper has heard of it
    pool.kill().result(PATIENCE)
    with pytest.raises(Exception, match="hang"):
        await calling
    assert not pool.statistics().workers
    await pool.aclose()


@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("that is the matter")
async def test_worker_that_died_as_its_time_was_over_is_forgotten(entered: Fifo) -> None:
    """A timeout that is told beside the end of its worker does not take that back."""
    pool = Pool("seam forgotten", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(call(pool, functions.hang, entered.path, timeout=1.0))
    pid = await entered.heard()
    os.kill(pid, 9)
    time.sleep(2.5)  # noqa: ASYNC251 - the keeper has stopped the call meanwhile
    with pytest.raises(Exception, match="hang"):
        await calling
    with anyio.fail_after(PATIENCE):
        await until(lambda: pid not in {each.pid for each in pool.statistics().workers})
        await pool.aclose()
    assert not pool.statistics().leaving


@pytest.mark.guarantee(5)
async def test_handler_that_raises_hides_no_failed_start(raising: list[Any]) -> None:
    """Who waits for a worker is told that there is none, whatever becomes of the record."""
    pool = Pool("seam start", max_workers=1, initializer=int, initargs=("x",))
    with anyio.fail_after(PATIENCE), pytest.raises(WorkerStartError, match="invalid literal"):
        await pool.run(pool_functions.echo, 1)
    assert raising
    await pool.aclose()


@pytest.mark.guarantee(3)
async def test_handler_that_raises_hides_no_end_of_a_supervisor(
    entered: Fifo, raising: list[Any]
) -> None:
    """Calls of all of its workers are told, and the next one starts another."""
    pool = Pool("seam supervisor", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(pool.run(functions.hang, entered.path))
    await entered.heard()
    os.kill(inside.supervisor_pid(pool), 9)
    with anyio.fail_after(PATIENCE):
        with pytest.raises(Exception, match="lost its worker"):
            await calling
        assert await pool.run(pool_functions.echo, 1) == 1
        await pool.aclose()
    assert any("supervisor" in record.getMessage() for record in raising)


@pytest.mark.guarantee(3)
async def test_handler_that_raises_hides_no_end_of_an_idle_worker(raising: list[Any]) -> None:
    """Nothing of it is left, and the pool closes."""
    pool = Pool("seam idle", max_workers=1, spare_workers=0)
    pid = await pool.run(functions.number_of_process)
    os.kill(pid, 9)
    with anyio.fail_after(PATIENCE):
        await until(lambda: pid not in {each.pid for each in pool.statistics().workers})
        assert await pool.run(functions.number_of_process) != pid
        await pool.aclose()
    assert any("idle worker" in record.getMessage() for record in raising)


# --- grace ---


@pytest.mark.guarantee(4)
async def test_task_in_its_grace_counts_as_running(entered: Fifo, tmp_path: Path) -> None:
    """Nobody takes its place before it has ended: neither as a worker nor as its function."""
    async with Pool("seam grace", max_workers=2) as pool:
        tidy = offload(pool=pool, max_concurrency=1, grace=PATIENCE)(functions.tidy_up)
        path = tmp_path / "tidy"
        first = asyncio.ensure_future(tidy(entered.path, str(path), 0.5))
        await entered.heard()
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(tidy(entered.path, str(path), 0.0))
        # One worker is left for others, and no more than that.
        spent = await asyncio.gather(*(pool.run(functions.number_of_process) for _ in range(8)))
        assert len(set(spent)) == 1
        await entered.heard()
        assert path.read_text() == "tidy"
        second.cancel()
        await asyncio.wait([second])


@pytest.mark.guarantee(7)
async def test_close_waits_for_a_task_in_its_grace(entered: Fifo, tmp_path: Path) -> None:
    """It may end what it was asked to end, as long as the drain takes."""
    pool = Pool("seam tidy", max_workers=1)
    path = tmp_path / "tidy"
    calling = asyncio.ensure_future(
        call(pool, functions.tidy_up, entered.path, str(path), 2.0, grace=PATIENCE)
    )
    await entered.heard()
    calling.cancel()
    await asyncio.wait([calling])
    await pool.aclose(drain=PATIENCE)
    assert path.read_text() == "tidy"


@pytest.mark.guarantee(4)
async def test_task_that_outlasts_its_grace_gives_its_place_back(pool: Pool, entered: Fifo) -> None:
    """Its worker is ended, and the next one takes what waits."""
    calling = asyncio.ensure_future(call(pool, functions.hang, entered.path, grace=0.2))
    pid = await entered.heard()
    calling.cancel()
    await asyncio.wait([calling])
    with anyio.fail_after(PATIENCE):
        assert await pool.run(pool_functions.echo, 1) == 1
    assert not is_alive(pid)


# --- time-outs of what waits behind its own function ---


@pytest.mark.guarantee(6)
async def test_call_that_is_put_behind_its_function_minds_its_queue_timeout(
    entered: Fifo, tmp_path: Path
) -> None:
    """One whose worker died before it took it waits again; its clock runs all the same."""
    with Fifo(tmp_path / "gate") as gate:
        async with Pool("seam parked", max_workers=2, spare_workers=0) as pool:
            limited = offload(pool=pool, max_concurrency=1)(functions.hang)
            running = asyncio.ensure_future(limited(entered.path))
            await entered.heard()
            other = asyncio.ensure_future(pool.run(pool_functions.hold, entered.path, gate.path))
            await entered.heard()
            behind = asyncio.ensure_future(limited.options(queue_timeout=1.0)(entered.path))
            passing = asyncio.ensure_future(pool.run(pool_functions.echo, 1))
            await until(lambda: pool.statistics().queued == 2)
            gate.let()
            assert await passing == 1
            inside.wait_in_queue_again(pool, functions.hang)
            with pytest.raises(QueueTimeoutError), anyio.fail_after(PATIENCE):
                await behind
            running.cancel()
            await asyncio.wait([running, other])


# --- executors of others ---


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


@pytest.mark.guarantee(5)
async def test_timeout_does_not_say_that_nothing_ran_where_nobody_knows() -> None:
    """Only the futures of the standard library tell for sure."""
    executor = Silent()
    async with Pool("seam silent", max_workers=1, spare_workers=0, executor=executor) as pool:
        with pytest.raises(TaskTimeoutError) as caught:
            await call(pool, functions.size, b"", 0.5, timeout=0.1)
        assert caught.value.may_have_run
        assert await anyio.to_thread.run_sync(executor.ran.wait, PATIENCE)
        assert await call(pool, functions.size, b"abc", 0.0) == 3


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


# --- inside of a worker ---


@pytest.mark.guarantee(5)
def test_large_error_of_a_function_sent_by_value_arrives() -> None:
    """With its type and its text, as a small one does."""
    program = textwrap.dedent(
        """
            import asyncio, sys
            from offload import Pool, offload

            @offload
            def fail(size):
                raise ValueError("x" * size)

            async def main():
                for size in (10, 200_000):
                    try:
                        await fail(size)
                    except ValueError as error:
                        print(type(error).__name__, len(str(error)))
                await Pool.named().aclose()

            asyncio.run(main())
            """
    )
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.split() == ["ValueError", "10", "ValueError", "200000"], done.stderr


@pytest.mark.guarantee(4)
@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is Linux's")
async def test_children_of_a_detached_helper_end_with_the_task(pool: Pool, tmp_path: Path) -> None:
    """In another session, and started by another thread than its first."""
    with Fifo(tmp_path / "told") as told:
        calling = asyncio.ensure_future(pool.run(functions.start_helper_and_hang, told.path))
        grandchild = await told.heard()
        calling.cancel()
        await asyncio.wait([calling])
        await gone(grandchild)


@pytest.mark.guarantee(5)
@pytest.mark.holds_loop("that is the matter")
async def test_record_of_a_signal_handler_does_not_wait_for_its_own_thread(
    pool: Pool, entered: Fifo, handled: Any
) -> None:
    """It interrupts the sending of another record, and is sent after that."""
    records: list[logging.LogRecord] = []
    handled(records.append)
    calling = asyncio.ensure_future(
        call(pool, functions.log_while_logging, entered.path, 400, timeout=PATIENCE / 2)
    )
    await entered.heard()
    time.sleep(0.5)  # noqa: ASYNC251 - nobody reads: the worker is stuck in the middle of a record
    ticks = await calling
    assert ticks > 0
    await until(lambda: len(records) == 400 + ticks)


@pytest.mark.guarantee(5)
async def test_argument_that_is_too_large_is_named_beside_a_file(pool: Pool) -> None:
    """A file crosses as a descriptor: it does not count, and is not to blame."""
    with SharedFile(anonymous_file(), 0) as file, pytest.raises(ArgumentError) as caught:
        await call(pool, functions.take_all, file, bytes(3 * MIB), max_payload_bytes=MIB)
    assert "argument '*1' takes" in str(caught.value)
    assert "more than max_payload_bytes" in str(caught.value)

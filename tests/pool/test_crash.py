"""The end of a worker or a supervisor, expected or not: it costs its own calls at most."""

import asyncio
import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import Pool, ResultError, WorkerCrashedError, WorkerStartError
from offload._workers import connection
from tests.support import inside
from tests.support.busy_machine import lines_about_the_test
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import hostile_module
from tests.support.functions import pool as pool_functions
from tests.support.functions import races as race_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


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


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    shared_pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(shared_pool.open())
    yield shared_pool
    asyncio.run(shared_pool.aclose(drain=5.0))


def only_pid(shared_pool: Pool) -> int:
    """Return the process id of the pool's one worker."""
    (worker,) = shared_pool.statistics().workers
    assert worker.pid is not None
    return worker.pid


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_crash_is_told(new_pool: Callable[..., Pool], entered: Fifo) -> None:
    """Who died of what, and whether the function had begun."""
    async with new_pool(max_workers=1) as pool:
        with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
            await pool.run(pool_functions.run_fault, "SIGKILL", entered.path)
        assert pickle.loads(pickle.dumps(caught.value)).pid == await entered.heard()
        assert pool.statistics().crashed == 1


@pytest.mark.guarantee(3)
@pytest.mark.anyio
async def test_call_whose_worker_died_idle_runs_on_another(new_pool: Callable[..., Pool]) -> None:
    """The death of an idle worker is nobody's error."""
    async with new_pool(max_workers=1) as pool:
        for _ in range(5):
            pid = await pool.run(pool_functions.pid)
            os.kill(pid, signal.SIGKILL)
            assert await pool.run(pool_functions.pid) != pid
        assert pool.statistics().crashed == 0


@pytest.mark.anyio
@one_loop
async def test_end_is_reported_once(one_worker: Pool) -> None:
    """Reports of the end are told once, and reports without a total now and then, like others."""
    told: list[tuple[float, float | None]] = []
    await call(
        one_worker,
        hostile_functions.report_the_end,
        20_000,
        on_progress=lambda *report: told.append(report),
    )
    assert told.count((5.0, 5.0)) < 10
    assert len(told) < 50


@pytest.mark.anyio
@one_loop
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


@pytest.mark.anyio
@one_loop
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


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_module_that_exits_in_a_worker_costs_its_own_calls(one_worker: Pool) -> None:
    """Workers that are started later do without it."""
    with pytest.raises(Exception, match="not here"):
        await one_worker.run(hostile_module.function)
    for _ in range(2):
        assert one_worker.recycle(await one_worker.run(pool_functions.pid))
        assert await one_worker.run(pool_functions.echo, 1) == 1


@pytest.mark.anyio
@one_loop
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
    assert (done.returncode, lines_about_the_test(done.stderr)) == (0, "")


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(4)
@pytest.mark.holds_loop("that is the matter")
async def test_worker_that_died_as_its_time_was_over_is_forgotten(entered: Fifo) -> None:
    """A timeout that is told beside the end of its worker does not take that back."""
    pool = Pool("seam forgotten", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(call(pool, seam_functions.hang, entered.path, timeout=1.0))
    pid = await entered.heard()
    os.kill(pid, 9)
    time.sleep(2.5)  # noqa: ASYNC251 - the keeper has stopped the call meanwhile
    with pytest.raises(Exception, match="hang"):
        await calling
    with anyio.fail_after(PATIENCE):
        await until(lambda: pid not in {each.pid for each in pool.statistics().workers})
        await pool.aclose()
    assert not pool.statistics().leaving


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_handler_that_raises_hides_no_failed_start(raising: list[Any]) -> None:
    """Who waits for a worker is told that there is none, whatever becomes of the record."""
    pool = Pool("seam start", max_workers=1, initializer=int, initargs=("x",))
    with anyio.fail_after(PATIENCE), pytest.raises(WorkerStartError, match="invalid literal"):
        await pool.run(pool_functions.echo, 1)
    assert raising
    await pool.aclose()


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_handler_that_raises_hides_no_end_of_a_supervisor(
    entered: Fifo, raising: list[Any]
) -> None:
    """Calls of all of its workers are told, and the next one starts another."""
    pool = Pool("seam supervisor", max_workers=1, spare_workers=0)
    calling = asyncio.ensure_future(pool.run(seam_functions.hang, entered.path))
    await entered.heard()
    os.kill(inside.supervisor_pid(pool), 9)
    with anyio.fail_after(PATIENCE):
        with pytest.raises(Exception, match="lost its worker"):
            await calling
        assert await pool.run(pool_functions.echo, 1) == 1
        await pool.aclose()
    assert any("supervisor" in record.getMessage() for record in raising)


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_handler_that_raises_hides_no_end_of_an_idle_worker(raising: list[Any]) -> None:
    """Nothing of it is left, and the pool closes."""
    pool = Pool("seam idle", max_workers=1, spare_workers=0)
    pid = await pool.run(seam_functions.number_of_process)
    os.kill(pid, 9)
    with anyio.fail_after(PATIENCE):
        await until(lambda: pid not in {each.pid for each in pool.statistics().workers})
        assert await pool.run(seam_functions.number_of_process) != pid
        await pool.aclose()
    assert any("idle worker" in record.getMessage() for record in raising)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestWorkers:
    @pytest.mark.guarantee(3)
    async def test_stream_that_fails_twice_replies_once(self, shared_pool: Pool) -> None:
        """An item that cannot be sent and a failing clean-up are one error, of this call alone."""
        errors: list[Any] = []
        results: dict[int, Any] = {}

        async def consume() -> None:
            try:
                async for _ in inside.stream(shared_pool, race_functions.unsendable_then_failing):
                    raise AssertionError
            except ResultError as error:
                errors.append(error)

        async def echo(number: int) -> None:
            try:
                results[number] = await shared_pool.run(pool_functions.echo, number)
            except ValueError as error:
                results[number] = error

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            for number in range(5):
                group.start_soon(echo, number)
        assert "lambda" in str(errors[0])
        assert results == {number: number for number in range(5)}

    @pytest.mark.guarantee(3)
    async def test_second_reply_to_a_task_is_for_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker that replies once too often dies; no caller gets another one's result."""
        results: dict[int, int] = {}
        async with Pool("races replies", max_workers=1, spare_workers=0) as shared_pool:
            pid = only_pid(shared_pool)

            async def echo(number: int) -> None:
                results[number] = await call(
                    shared_pool, pool_functions.echo, number, max_crash_retries=1
                )

            async with anyio.create_task_group() as group:
                group.start_soon(shared_pool.run, race_functions.reply_twice)
                for number in range(5):
                    group.start_soon(echo, number)
            assert results == {number: number for number in range(5)}
            await gone(pid)
        assert "replied to one task twice" in caplog.text

    @pytest.mark.guarantee(3)
    async def test_forked_child_that_returns_leaves_the_buffer_alone(
        self, shared_pool: Pool
    ) -> None:
        """A child that a task forks, and that runs on into our code, writes nothing for others."""
        assert await shared_pool.run(race_functions.buffer_after_child_returned, 1_000_000) == 0

    async def test_live_worker_that_cannot_be_sent_to_is_ended(
        self, shared_pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Out of descriptors, the pool does not lose a worker that nobody will use or end."""
        made = connection.WorkerConnection

        def fail(*_: Any) -> Any:
            monkeypatch.setattr(connection, "WorkerConnection", made)
            raise OSError(errno.EMFILE, "no descriptors")

        # Another loop has used it before, so it needs a connection to this one.
        await asyncio.to_thread(asyncio.run, shared_pool.run(pool_functions.echo, 0))
        pid = only_pid(shared_pool)
        inside.fail_bindings(monkeypatch, fail)
        assert await shared_pool.run(pool_functions.pid) != pid
        await gone(pid)
        await until(lambda: not shared_pool.statistics().leaving)

    async def test_helper_of_a_preloaded_module_outlives_workers(self, shared_pool: Pool) -> None:
        """What a preloaded module has started is not what a dead worker left behind."""
        helper = await shared_pool.run(race_functions.helper_pid)
        pid = only_pid(shared_pool)
        assert shared_pool.recycle(pid)
        await until(lambda: pid not in [worker.pid for worker in shared_pool.statistics().workers])
        assert is_alive(helper)


@pytest.mark.guarantee(5)
def test_record_half_read_on_one_loop_is_read_on_on_the_next(
    shared_pool: Pool, entered: Fifo, gate: Fifo
) -> None:
    """A worker that goes to another loop in the middle of a frame is understood there."""
    results: list[Any] = []

    async def main() -> None:
        # Larger than what is read at once, smaller than what the socket holds.
        await shared_pool.run(race_functions.log_later, entered.path, gate.path, 100_000)
        gate.let()
        entered.heard_now()
        assert inside.read_from_worker(shared_pool)
        # On this loop, which stands still, nothing more is read.
        other = threading.Thread(
            target=lambda: results.append(asyncio.run(shared_pool.run(pool_functions.echo, 7))),
            daemon=True,
        )
        other.start()
        other.join(PATIENCE / 2)

    asyncio.run(main())
    assert results == [7]

"""What happens at once, or twice, or half, and must reach nobody else."""

import asyncio
import errno
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from offload import Pool, QueueTimeoutError, ResultError, TaskKilledError, TaskTimeoutError
from offload._values.call_record import CallRecord
from offload._workers import connection
from tests.support import inside
from tests.support.functions import pool as pool_functions
from tests.support.functions import races as race_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, until


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One pool of one worker: what one call spoils, the next one meets."""
    pool = Pool(
        "races", max_workers=1, spare_workers=0, preload=["tests.support.functions.race_helper"]
    )
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


def only_pid(pool: Pool) -> int:
    """Return the process id of the pool's one worker."""
    (worker,) = pool.statistics().workers
    assert worker.pid is not None
    return worker.pid


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestWorkers:
    @pytest.mark.guarantee(3)
    async def test_stream_that_fails_twice_replies_once(self, pool: Pool) -> None:
        """An item that cannot be sent and a failing clean-up are one error, of this call alone."""
        errors: list[Any] = []
        results: dict[int, Any] = {}

        async def consume() -> None:
            try:
                async for _ in inside.stream(pool, race_functions.unsendable_then_failing):
                    raise AssertionError
            except ResultError as error:
                errors.append(error)

        async def echo(number: int) -> None:
            try:
                results[number] = await pool.run(pool_functions.echo, number)
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
        async with Pool("races replies", max_workers=1, spare_workers=0) as pool:
            pid = only_pid(pool)

            async def echo(number: int) -> None:
                results[number] = await call(pool, pool_functions.echo, number, max_crash_retries=1)

            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, race_functions.reply_twice)
                for number in range(5):
                    group.start_soon(echo, number)
            assert results == {number: number for number in range(5)}
            await gone(pid)
        assert "replied twice" in caplog.text

    @pytest.mark.guarantee(3)
    async def test_forked_child_that_returns_leaves_the_buffer_alone(self, pool: Pool) -> None:
        """A child that a task forks, and that runs on into our code, writes nothing for others."""
        assert await pool.run(race_functions.buffer_after_child_returned, 1_000_000) == 0

    async def test_live_worker_that_cannot_be_sent_to_is_ended(
        self, pool: Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Out of descriptors, the pool does not lose a worker that nobody will use or end."""
        made = connection.WorkerConnection

        def fail(*_: Any) -> Any:
            monkeypatch.setattr(connection, "WorkerConnection", made)
            raise OSError(errno.EMFILE, "no descriptors")

        # Another loop has used it before, so it needs a connection to this one.
        await asyncio.to_thread(asyncio.run, pool.run(pool_functions.echo, 0))
        pid = only_pid(pool)
        inside.fail_bindings(monkeypatch, fail)
        assert await pool.run(pool_functions.pid) != pid
        await gone(pid)
        await until(lambda: not pool.statistics().leaving)

    @pytest.mark.guarantee(5)
    async def test_call_that_goes_back_to_the_queue_has_its_clock(self) -> None:
        """A call whose worker died before receiving it waits no longer than its queue_timeout."""
        async with Pool("races requeued", max_workers=1, spare_workers=0) as pool:
            await pool.run(pool_functions.echo, 0)
            pid = only_pid(pool)
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
            # There is no other worker to be had.
            inside.start_no_worker(pool)
            waiting = asyncio.ensure_future(call(pool, pool_functions.echo, 1, queue_timeout=0.1))
            await until(lambda: pool.statistics().busy)
            os.kill(pid, signal.SIGKILL)
            with anyio.fail_after(PATIENCE / 2), pytest.raises(QueueTimeoutError):
                await waiting

    @pytest.mark.guarantee(3)
    async def test_stop_that_comes_late_is_not_for_the_next_task(
        self,
        entered: Fifo,
        gate: Fifo,
        held: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A task that ends by itself while it is being cancelled takes its stop along."""
        async with Pool("races stopped", max_workers=1, spare_workers=0) as pool:
            stop = inside.LateStop(monkeypatch, PATIENCE)
            pid = only_pid(pool)
            first = asyncio.ensure_future(call(pool, pool_functions.hold, *held, grace=PATIENCE))
            await entered.heard()
            stopping = asyncio.ensure_future(asyncio.to_thread(pool.kill_task, pid))
            await asyncio.to_thread(stop.decided.wait, PATIENCE)
            gate.let()
            await asyncio.to_thread(stop.recovered.wait, PATIENCE)
            function = race_functions.wait_and_tell_whether_wanted
            following = asyncio.ensure_future(pool.run(function, *held))
            await asyncio.sleep(0)  # to let it be sent, if there is a worker
            stop.proceed.set()
            assert await stopping
            with pytest.raises(TaskKilledError):
                await first
            await entered.heard()
            gate.let()
            assert await following

    async def test_helper_of_a_preloaded_module_outlives_workers(self, pool: Pool) -> None:
        """What a preloaded module has started is not what a dead worker left behind."""
        helper = await pool.run(race_functions.helper_pid)
        pid = only_pid(pool)
        assert pool.recycle(pid)
        await until(lambda: pid not in [worker.pid for worker in pool.statistics().workers])
        assert is_alive(helper)


@pytest.mark.guarantee(5)
def test_record_half_read_on_one_loop_is_read_on_on_the_next(
    pool: Pool, entered: Fifo, gate: Fifo
) -> None:
    """A worker that goes to another loop in the middle of a frame is understood there."""
    results: list[Any] = []

    async def main() -> None:
        # Larger than what is read at once, smaller than what the socket holds.
        await pool.run(race_functions.log_later, entered.path, gate.path, 100_000)
        gate.let()
        entered.heard_now()
        assert inside.read_from_worker(pool)
        # On this loop, which stands still, nothing more is read.
        other = threading.Thread(
            target=lambda: results.append(asyncio.run(pool.run(pool_functions.echo, 7))),
            daemon=True,
        )
        other.start()
        other.join(PATIENCE / 2)

    asyncio.run(main())
    assert results == [7]


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


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestBooks:
    async def test_executor_that_refuses_with_an_error_of_its_own_is_replaced(self) -> None:
        """Whatever `submit` raises costs a worker, and no call."""
        async with Pool("races executor", max_workers=1, executor=FailsOnce) as pool:
            with anyio.fail_after(PATIENCE):
                assert await pool.run(pool_functions.echo, 1) == 1
        assert FailsOnce.failed

    async def test_task_that_cannot_be_stopped_is_counted_once(
        self, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """A call that timed out has not completed as well when its thread comes back."""
        executor = partial(ThreadPoolExecutor, 1)
        async with Pool("races threads", max_workers=1, executor=executor) as pool:
            with pytest.raises(TaskTimeoutError):
                await call(pool, pool_functions.hold, *held, timeout=0.05)
            await entered.heard()
            gate.let()
            await until(lambda: not pool.statistics().busy)
            now = pool.statistics()
        assert (now.timed_out, now.completed, now.failed) == (1, 0, 0)

    @pytest.mark.guarantee(4)
    async def test_call_that_waits_in_an_executor_of_others_is_taken_back(
        self, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """A call that times out before the executor comes to it did not run, and never does."""
        with ThreadPoolExecutor(1) as executor:
            busy = executor.submit(pool_functions.hold, *held)
            await entered.heard()
            async with Pool("races shared", max_workers=1, executor=executor) as pool:
                with pytest.raises(
                    TaskTimeoutError, match="waited in the queue of its executor"
                ) as caught:
                    await call(pool, pool_functions.hold, *held, timeout=0.05)
                assert not caught.value.may_have_run
                assert pool.statistics().busy == 0
                gate.let(2)
                assert await pool.run(pool_functions.echo, 1) == 1
                busy.result()
                now = pool.statistics()
        assert not entered.rest()
        assert (now.not_started, now.timed_out, now.cancelled, now.completed) == (1, 0, 0, 1)

    async def test_carriers_do_not_tell_identical_calls_apart(
        self, pool: Pool, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """Calls that single_flight do so within traces of their own, too."""
        hook = {"hook": "tests.support.functions.races"}
        watcher = Watcher(hook | {"number": str(number)} for number in range(3))
        end = pool.observe(watcher)
        results: list[Any] = []

        async def one() -> None:
            results.append(await call(pool, pool_functions.hold, *held, single_flight=True))

        try:
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(one)
                await entered.heard()
                await until(lambda: watcher.submitted_calls == 3)
                gate.let(3)  # enough for a run of each, if each has one
        finally:
            end()
            gate.take_back()
        assert len(results) == 3
        assert not entered.rest()

    async def test_thread_left_behind_reports_to_nobody(
        self, pool: Pool, entered: Fifo, gate: Fifo, held: tuple[str, str], tmp_path: Path
    ) -> None:
        """Progress of a task that has ended is not told to the caller of the next one."""
        told: list[tuple[float, float | None]] = []
        late = Fifo(tmp_path / "late")
        await pool.run(race_functions.report_later, entered.path, late.path)
        following = asyncio.ensure_future(
            call(
                pool,
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

    async def test_observer_that_comes_with_the_first_call_is_not_missed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An observer that is added while a pool's engine is being made hears of its calls."""
        async with Pool("races observed", max_workers=1) as pool:
            pass
        watcher = Watcher(iter([None]))
        added = threading.Thread(target=pool.observe, args=(watcher,))

        def add_meanwhile() -> None:
            added.start()
            added.join(0.2)  # it waits for the engine, or is too early for it

        inside.make_engines_slowly(monkeypatch, pool, add_meanwhile)
        async with pool:
            await asyncio.to_thread(added.join)
            await pool.run(pool_functions.echo, 1)
        assert watcher.ended_calls == ["completed"]

    async def test_pool_that_is_closing_has_a_successor_of_its_name(self) -> None:
        """A function goes to the pool that has the name now, not to one that is not yet gone."""
        first = Pool("races again", max_workers=1)
        assert await race_functions.echo_again(1) == 1
        closed = first.kill()
        second = Pool("races again", max_workers=1)
        try:
            # `closed` is not done, as a rule: what it waits for takes milliseconds.
            assert await race_functions.echo_again(2) == 2
        finally:
            await second.aclose(drain=0.0)
        await asyncio.wrap_future(closed)

    async def test_carrier_that_is_no_mapping_costs_no_call(
        self, pool: Pool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An observer that returns nonsense is logged, and told of the end as ever."""
        watcher = Watcher(iter(["nonsense"]))
        end = pool.observe(watcher)
        try:
            assert await pool.run(pool_functions.echo, 1) == 1
        finally:
            end()
        assert watcher.ended_calls == ["completed"]
        assert "an observer of pool 'races' failed" in caplog.text


@pytest.mark.parametrize("count", [3000])
def test_thousands_that_nobody_wants_are_passed_over(count: int, tmp_path: Path) -> None:
    """Calls that were given up while they waited cost the worker nothing, however many."""
    pool = Pool("unwanted", max_workers=1, max_queued=None, os_priority="normal")
    try:
        with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
            executor = pool.executor()
            first = executor.submit(pool_functions.hold, entered.path, gate.path)
            entered.heard_now()
            waiting = [executor.submit(pool_functions.echo, number) for number in range(count)]
            last = executor.submit(pool_functions.echo, "last")
            # One that is given up before it comes to the pool is none of the pool's.
            limit = time.monotonic() + PATIENCE
            while pool.statistics().queued <= count:
                assert time.monotonic() < limit
                time.sleep(0.01)
            assert all(future.cancel() for future in waiting)
            gate.let()
            assert last.result(PATIENCE) == "last"
            assert first.result(PATIENCE)[0] is None
        now = pool.statistics()
        assert (now.busy, now.queued, now.crashed, now.cancelled) == (0, 0, 0, count)
    finally:
        pool.kill().result(PATIENCE)
        inside.forget(pool)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_call_that_is_given_up_before_it_is_sent_costs_no_worker(tmp_path: Path) -> None:
    """Hundreds of callers leave at once while their calls come up: no worker is killed for it."""
    pool = Pool("given up", max_workers=1, spare_workers=0, max_queued=None, os_priority="normal")
    async with pool:
        pid = await pool.run(pool_functions.pid)
        asked: list[int] = []

        def nobody() -> bool:
            asked.append(1)
            return False

        with Fifo(tmp_path / "entered") as entered, Fifo(tmp_path / "gate") as gate:
            async with anyio.create_task_group() as group:
                group.start_soon(pool.run, pool_functions.hold, entered.path, gate.path)
                await entered.heard()
                async with anyio.create_task_group() as leavers:
                    for number in range(300):
                        leavers.start_soon(
                            inside.call_if, pool, nobody, pool_functions.echo, number
                        )
                    await until(lambda: pool.statistics().queued == 300)
                    gate.let()
                    await until(lambda: asked)
                    leavers.cancel_scope.cancel()
        await until(lambda: not pool.statistics().busy)
        assert await pool.run(pool_functions.pid) == pid
    inside.forget(pool)

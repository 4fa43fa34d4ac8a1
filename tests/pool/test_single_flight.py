"""Identical calls that are under way at once share one run."""

import asyncio
import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import anyio
import pytest

from offload import Pool, WorkerCrashedError, offload
from offload._pool.single_flight import SingleFlight
from offload._values.call_record import CallRecord
from offload._wire.frames import Flag, Frame, Kind
from offload._wire.memory_file import anonymous_file
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import crossing as crossing_functions
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


@pytest.fixture(scope="module")
def wide() -> Iterator[Pool]:
    """One pool of two workers."""
    pool = Pool("crossing wide", max_workers=2)
    asyncio.run(pool.open())
    yield pool
    asyncio.run(pool.aclose(drain=5.0))


@contextlib.contextmanager
def temporary_pool(**options: Any) -> Iterator[Pool]:
    """Make a pool for one test, whose name is free again after it."""
    pool = Pool("crossing temporary", **options)
    try:
        yield pool
    finally:
        pool.kill().result(PATIENCE)


class Caller:
    """A call in a task of its own, to be cancelled by itself."""

    def __init__(self, coroutine: Any) -> None:
        self.coroutine = coroutine
        self.scope = anyio.CancelScope()
        self.result: Any = None
        self.error: BaseException | None = None
        self.has_ended = False

    async def __call__(self) -> None:
        with self.scope:
            try:
                self.result = await self.coroutine
            except Exception as error:  # noqa: BLE001 - kept
                self.error = error
        self.has_ended = True


@offload(single_flight=True)
def decorated() -> int:
    """Tell where it ran."""
    return os.getpid()


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


@pytest.mark.anyio
class TestCoalesce:
    def shared(self, pool: Pool, function: Any, *args: Any, **options: Any) -> Any:
        return call(pool, function, *args, single_flight=True, **options)

    async def joined(self, pool: Pool, count: int, entered: Fifo) -> None:
        """Wait for the run that so many callers wait for; under trio each comes by itself."""
        await entered.heard()
        await until(lambda: sum(inside.callers_of_flights(pool)) == count)

    @pytest.mark.parametrize("entries", [0, 1000], ids=["few entries", "many entries"])
    async def test_identical_calls_share_one_run(
        self, wide: Pool, entered: Fifo, gate: Fifo, entries: int
    ) -> None:
        """N identical calls under way at once are one run, and each has a copy of its own."""
        argument = {"list": [1], **{str(number): number for number in range(entries)}}
        before = wide.statistics()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide,
                            crossing_functions.run_and_hold,
                            entered.path,
                            gate.path,
                            argument,
                        )
                    )
                    for _ in range(10)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [caller.result for caller in callers] == [argument] * 10
        assert len({id(caller.result["list"]) for caller in callers}) == 10
        now = wide.statistics()
        assert (now.completed, now.attempts) == (before.completed + 10, before.attempts + 1)
        assert entered.rest() == []

    async def test_calls_after_the_end_run_anew(self, wide: Pool) -> None:
        """What is shared is a run under way, not a result: this is no cache."""
        before = wide.statistics().attempts
        for _ in range(3):
            await self.shared(wide, pool_functions.pid)
        assert wide.statistics().attempts == before + 3

    async def test_each_caller_is_told_how_far_the_shared_run_is(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whoever asks with `on_progress` is told, and a callback that fails stays its caller's."""
        told: list[tuple[str, float, float | None]] = []

        def fail(done: float, total: float | None) -> None:
            raise RuntimeError("a callback that fails")

        callbacks = [fail, None, lambda *far: told.append(("third", *far))]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide,
                            crossing_functions.report_and_hold,
                            entered.path,
                            gate.path,
                            on_progress=callback,
                        )
                    )
                    for callback in callbacks
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [caller.result for caller in callers] == ["done"] * 3
        assert told == [("third", 1, 1)]

    async def test_different_arguments_are_not_shared(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Another argument is another call."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.run_and_hold, entered.path, gate.path, each
                        )
                    )
                    for each in ("a", "b")
                ]
                for caller in callers:
                    group.start_soon(caller)
                for _ in callers:
                    await entered.heard()
                gate.let(2)
        assert [caller.result for caller in callers] == ["a", "b"]

    async def test_uncoalesced_calls_do_not_join(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Only calls that ask for it share."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                arguments = (entered.path, gate.path, 1)
                group.start_soon(
                    Caller(self.shared(wide, crossing_functions.run_and_hold, *arguments))
                )
                group.start_soon(Caller(call(wide, crossing_functions.run_and_hold, *arguments)))
                for _ in range(2):
                    await entered.heard()
                gate.let(2)

    @pytest.mark.parametrize("who", [0, 1])
    async def test_one_callers_leave_is_not_that_of_the_others(
        self, wide: Pool, entered: Fifo, gate: Fifo, who: int
    ) -> None:
        """Whoever began the run may leave as any other: it goes on for those who wait."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.run_and_hold, entered.path, gate.path, 5
                        )
                    )
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[who].scope.cancel()
                await until(lambda: callers[who].has_ended)
                gate.let()
        assert [caller.result for caller in callers] == [None if i == who else 5 for i in range(3)]
        assert entered.rest() == []

    async def test_last_callers_leave_stops_the_run(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """When nobody waits any more the run is stopped, as any call's."""
        before = wide.statistics()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.run_and_hold, entered.path, gate.path, 5
                        )
                    )
                    for _ in range(2)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[0].scope.cancel()
                await until(lambda: callers[0].has_ended)
                assert wide.statistics().cancelled == before.cancelled + 1
                assert wide.statistics().attempts == before.attempts
                callers[1].scope.cancel()
            await until(lambda: not wide.statistics().busy)
        now = wide.statistics()
        assert (now.cancelled, now.attempts) == (before.cancelled + 2, before.attempts + 1)

    async def test_who_comes_when_the_last_one_leaves_gets_a_run(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """A call that arrives while the run of others is being stopped is not cancelled with it."""
        with anyio.fail_after(PATIENCE):
            for _ in range(5):
                async with anyio.create_task_group() as group:
                    arguments = (crossing_functions.run_and_hold, entered.path, gate.path, 5)
                    first = Caller(self.shared(wide, *arguments))
                    group.start_soon(first)
                    await entered.heard()
                    first.scope.cancel()
                    second = Caller(self.shared(wide, *arguments))
                    group.start_soon(second)
                    third = Caller(self.shared(wide, *arguments))
                    while not first.has_ended:
                        await anyio.lowlevel.checkpoint()
                    group.start_soon(third)
                    gate.let(3)
                assert (second.result, third.result) == (5, 5)
                # Two runs or three, as it happens: take back what is left.
                await until(lambda: not wide.statistics().busy)
                entered.rest()
                gate.take_back()

    async def test_exception_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """All callers of a run that fails are told, each with an exception of its own."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.raise_and_hold, entered.path, gate.path
                        )
                    )
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [type(caller.error) for caller in callers] == [crossing_functions.Detailed] * 3
        assert len({id(caller.error) for caller in callers}) == 3

    async def test_crash_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """A crash is one crash, however many wait."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.hold_and_crash, entered.path, gate.path
                        )
                    )
                    for _ in range(3)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                gate.let()
        assert [type(caller.error) for caller in callers] == [WorkerCrashedError] * 3
        assert entered.rest() == []

    async def test_large_result_is_shared(self, wide: Pool, entered: Fifo, gate: Fifo) -> None:
        """A result that comes in a file is read by each caller; no descriptor stays."""
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                callers = [
                    Caller(
                        self.shared(
                            wide, crossing_functions.make, 3_000_000, entered.path, gate.path
                        )
                    )
                    for _ in range(5)
                ]
                for caller in callers:
                    group.start_soon(caller)
                await self.joined(wide, len(callers), entered)
                callers[0].scope.cancel()
                gate.let()
        results = [caller.result for caller in callers[1:]]
        assert len({pid for pid, _ in results}) == 1
        assert all(part == bytes(3_000_000) for _, (part,) in results)
        await until(lambda: not open_files())

    async def test_large_result_that_everybody_left_is_freed(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Whenever the callers leave, the file of the result is closed."""
        with anyio.fail_after(PATIENCE):
            for pause in (0.0, 0.001, 0.002, 0.005, 0.01):
                async with anyio.create_task_group() as group:
                    callers = [
                        Caller(
                            self.shared(
                                wide, crossing_functions.make, 1_000_000, entered.path, gate.path
                            )
                        )
                        for _ in range(3)
                    ]
                    for caller in callers:
                        group.start_soon(caller)
                    await self.joined(wide, len(callers), entered)
                    gate.let()
                    await anyio.sleep(pause)
                    group.cancel_scope.cancel()
                await until(lambda: not wide.statistics().busy)
                gate.take_back()
        await until(lambda: not open_files())

    async def test_deadline_does_not_keep_calls_from_sharing(
        self, wide: Pool, entered: Fifo, gate: Fifo
    ) -> None:
        """Identical calls with the same deadline are identical."""
        deadline = time.monotonic() + 60.0
        before = wide.statistics()
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    coroutine = self.shared(
                        wide,
                        crossing_functions.run_and_hold,
                        entered.path,
                        gate.path,
                        5,
                        deadline=deadline,
                    )
                    group.start_soon(Caller(coroutine))
                await self.joined(wide, 2, entered)
                gate.let(2)
        now = wide.statistics()
        assert (now.completed, now.attempts) == (before.completed + 2, before.attempts + 1)
        entered.rest()
        gate.take_back()


def test_two_event_loops_share_nothing_and_lose_nothing() -> None:
    """Identical calls from two loops are two runs at most at once, and all have their results."""
    with temporary_pool(max_workers=2) as pool:
        results: Counter[int] = Counter()

        async def main() -> None:
            for _ in range(20):
                found = await asyncio.gather(
                    *(
                        call(pool, crossing_functions.make_bytes, 100_000, single_flight=True)
                        for _ in range(10)
                    )
                )
                results.update(len(each) for each in found)

        asyncio.run(pool.open())
        threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {100_000: 400}
        now = pool.statistics()
        assert now.completed == 400
        assert now.attempts < 200
        asyncio.run(pool.aclose())


def test_decorated_function_shares_a_run() -> None:
    """`single_flight=True` of the decorator holds for each call."""

    async def main() -> set[int]:
        pool = Pool.named()
        await pool.open()
        before = pool.statistics()
        found = await asyncio.gather(*(decorated() for _ in range(20)))
        now = pool.statistics()
        assert (now.completed, now.attempts) == (before.completed + 20, before.attempts + 1)
        await pool.aclose()
        return set(found)

    assert len(asyncio.run(main())) == 1


@pytest.mark.anyio
@one_loop
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
        made.append((descriptor, os.fstat(descriptor).st_ino))
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
    for descriptor, inode in made:
        with contextlib.suppress(OSError):
            # Another thread may have opened another file by this number.
            assert os.fstat(descriptor).st_ino != inode


@pytest.mark.anyio
@one_loop
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


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(3)
async def test_caller_of_a_shared_run_that_is_dropped_cancels_no_newcomer(one_worker: Pool) -> None:
    """Who joins before the dropped one has left keeps the run."""

    def shared() -> Any:
        return call(one_worker, pool_functions.echo, 1, single_flight=True)

    dropped = shared()
    dropped.send(None)
    dropped.close()
    assert await shared() == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
class TestCarriers:
    async def test_carriers_do_not_tell_identical_calls_apart(
        self, shared_pool: Pool, entered: Fifo, gate: Fifo, held: tuple[str, str]
    ) -> None:
        """Calls that single_flight do so within traces of their own, too."""
        hook = {"hook": "tests.support.functions.races"}
        watcher = Watcher(hook | {"number": str(number)} for number in range(3))
        end = shared_pool.observe(watcher)
        results: list[Any] = []

        async def one() -> None:
            results.append(await call(shared_pool, pool_functions.hold, *held, single_flight=True))

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

"""Every fault, in every phase of a worker, over both ways to start one: it costs one task.

fault: raise, os._exit, sys.exit, KeyboardInterrupt, segfault, SIGKILL,
       hang in Python, hang in native code that holds the GIL, a memory limit (RLIMIT_AS) reached,
       the end that the kernel makes when memory runs out, grandchildren left behind
phase: starting, unpickling the arguments, running, pickling the result, idle
"""

import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import (
    ArgumentError,
    OffloadError,
    Pool,
    RemoteError,
    ResultError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
    offload,
)
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import (
    PATIENCE,
    Fifo,
    gone,
    gone_now,
    is_alive,
    longer_and_longer,
    supervisors,
)

pytestmark = [pytest.mark.anyio, pytest.mark.guarantee(3)]

METHODS = ("forkserver", "spawn")
# Long enough for a worker to reach its fault, as a rule, and short enough to be waited for.
HANG_SECONDS = 0.3
START_SECONDS = 1.5

# How the worker process ends, if it does.
ENDS: dict[str, tuple[int | None, int | None]] = {
    "os._exit": (3, None),
    "segfault": (None, signal.SIGSEGV),
    "SIGKILL": (None, signal.SIGKILL),
    "out of memory": (None, signal.SIGKILL),
    "grandchildren": (None, signal.SIGKILL),
}
HANGS = ("hang in Python", "hang in native code")
UNWINDS = {
    "raise": "ZeroDivisionError",
    "sys.exit": "SystemExit",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "memory limit": "MemoryError",
}
# What crosses back as it was raised.
RAISED = {"raise": ZeroDivisionError, "memory limit": MemoryError}

# What the call of each phase fails with when the fault is an exception.
PHASES: dict[str, type[Exception]] = {
    "unpickling": ArgumentError,
    "running": RemoteError,
    "pickling": ResultError,
}


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: faults happen in workers."""
    return "asyncio"


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """How workers are started."""
    return request.param


@pytest.fixture(scope="module")
def pool(method: str) -> Iterator[Pool]:
    """One pool for the whole matrix: every fault must leave it as usable as the one before."""
    pool = Pool(f"faults {method}", max_workers=2, start_method=method, os_priority="normal")
    anyio.run(pool.open)
    yield pool
    anyio.run(partial(pool.aclose, drain=1.0))
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


def call_of(phase: str, fault: str, report: Fifo, pool: Pool, timeout: float | None) -> Any:
    """Return the call whose worker goes wrong in this phase."""
    if phase == "unpickling":
        argument = functions.FaultWhenUnpickled(fault, report.path)
        return offload(pool=pool, timeout=timeout)(functions.accept)(argument)
    function = functions.run_fault if phase == "running" else functions.fault_in_result
    return offload(pool=pool, timeout=timeout)(function)(fault, report.path)


async def error_of(phase: str, fault: str, report: Fifo, pool: Pool) -> tuple[Exception, list[int]]:
    """Return what the call failed with, and the processes that told of themselves."""
    for timeout in longer_and_longer(HANG_SECONDS):
        with pytest.raises((OffloadError, *RAISED.values())) as caught:
            await call_of(phase, fault, report, pool, timeout if fault in HANGS else None)
        if told := report.rest():  # else it was cut off on its way there
            break
    # One that was cut off may have told of itself all the same, just before it ended.
    return caught.value, told[-1:] if fault in HANGS else told


def check_error(error: Exception, phase: str, fault: str, pid: int) -> None:
    """Check that the error says what happened, and whether the function may have run."""
    if fault in ENDS:
        assert isinstance(error, WorkerCrashedError)
        assert (error.exit_code, error.signal) == ENDS[fault]
        assert error.pid == pid
        assert error.may_have_run == (phase != "unpickling")
        assert ("did not run" in str(error)) == (phase == "unpickling")
        assert ("when memory runs out" in str(error)) == (error.signal == signal.SIGKILL)
    elif fault in HANGS:
        assert isinstance(error, TaskTimeoutError)
        assert error.may_have_run == (phase != "unpickling")
        assert ("did not run" in str(error)) == (phase == "unpickling")
    elif phase == "running" and fault in RAISED:
        assert type(error) is RAISED[fault]
        assert "in run_fault" in str(error.__cause__)
    else:
        assert type(error) is PHASES[phase]
        assert UNWINDS[fault] in str(error)
        assert ("did not run" in str(error)) == (phase == "unpickling")


@pytest.mark.parametrize("fault", functions.FAULTS)
@pytest.mark.parametrize("phase", PHASES)
async def test_fault_costs_one_task(
    pool: Pool, fifo: Callable[[str], Fifo], phase: str, fault: str
) -> None:
    """The call that goes wrong fails with what happened; its neighbour and the pool go on."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    results = []

    async def neighbour() -> None:
        results.append(await pool.run(functions.hold, entered.path, gate.path, "well"))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(neighbour)
            neighbour_pid = await entered.heard()
            error, (pid, *left) = await error_of(phase, fault, report, pool)
            check_error(error, phase, fault, pid)
            assert len(left) == (3 if fault == "grandchildren" else 0)
            gate.let()
        if fault in UNWINDS:
            assert is_alive(pid)
        else:
            await gone(pid, *left)
        assert results == [("well", neighbour_pid)]
        pids = await offload(pool=pool)(functions.pid).map(range(8))
        assert pid not in pids or fault in UNWINDS


@pytest.mark.parametrize("fault", functions.FAULTS)
async def test_fault_of_an_idle_worker_costs_nothing(
    method: str, fifo: Callable[[str], Fifo], fault: str
) -> None:
    """What a leftover thread does to an idle worker is no other call's affair."""
    report, gate = fifo("report"), fifo("gate")
    with anyio.fail_after(PATIENCE):
        # No spare: it would be asked next, having become idle last.
        async with fault_pool(
            f"idle {method}", max_workers=1, spare_workers=0, start_method=method
        ) as pool:
            pid = await pool.run(functions.fault_when_idle, fault, report.path, gate.path)
            gate.let()
            assert await report.heard() == pid
            if fault in ENDS:
                await gone(pid)
                left = [await report.heard() for _ in range(3 if fault == "grandchildren" else 0)]
                await gone(*left)
            elif fault == "hang in native code":
                # Nobody can know that it hangs before something is asked of it; it may still
                # answer, between telling that it will hang and doing it.
                while await pool.run(functions.pid) == pid:
                    pass
                await gone(pid)
            assert (await pool.run(functions.pid) == pid) == is_alive(pid)
            assert pool.statistics().crashed == 0
    await gone(pid)


@pytest.mark.parametrize("fault", ENDS)
async def test_fault_of_an_idle_worker_is_not_seen_by_a_call_on_its_way(
    method: str, fifo: Callable[[str], Fifo], fault: str
) -> None:
    """A call that is sent to a worker in the moment of its death runs on another worker."""
    report, gate = fifo("report"), fifo("gate")
    with anyio.fail_after(PATIENCE):
        async with fault_pool(f"racing {method}", max_workers=1, start_method=method) as pool:
            for _ in range(5):
                pid = await pool.run(functions.fault_when_idle, fault, report.path, gate.path)
                gate.let()
                # Not waited for: it dies before, while or after it is given the next call. Only a
                # call that it has begun with may be lost.
                try:
                    await pool.run(functions.pid)
                except WorkerCrashedError as error:
                    assert error.pid == pid  # noqa: PT017 - both outcomes are right
                await gone(pid)
                report.rest()


@pytest.mark.parametrize("method", METHODS)
async def test_fault_while_starting_costs_the_call_and_says_why(
    method: str, tmp_path: Path, fifo: Callable[[str], Fifo]
) -> None:
    """Calls fail with `WorkerStartError` naming the cause; once it is gone, the pool works."""

    async def starting(fault: str) -> None:
        report = fifo(fault)
        flag = tmp_path / f"{fault} flag"
        flag.touch()
        pool = Pool(
            f"starting {method} {fault}",
            max_workers=1,
            start_method=method,
            os_priority="normal",
            start_timeout=start_timeout if fault in HANGS else 60.0,
            initializer=functions.fault_while_exists,
            initargs=(fault, report.path, str(flag)),
        )
        try:
            with pytest.raises(WorkerStartError) as caught:
                await pool.run(functions.pid)
            if fault in UNWINDS:
                assert "in fault_while_exists" in caught.value.detail
                assert UNWINDS[fault] in caught.value.detail
            elif fault in HANGS:
                assert "start_timeout" in caught.value.detail
            else:
                code, number = ENDS[fault]
                how = f"code {code}" if number is None else signal.Signals(number).name
                assert how in caught.value.detail
            assert "did not run" in str(caught.value)
            await gone(*report.rest())
            flag.unlink()
            await restarted(pool)
        finally:
            await pool.aclose(drain=0)
            inside.forget(pool)

    # Which a worker without a fault must not reach, beside those of all the others.
    start_timeout = min(max(START_SECONDS, 5 * await seconds_to_start(method)), PATIENCE / 4)
    before = supervisors()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for fault in functions.FAULTS:
                group.start_soon(starting, fault)
    assert supervisors() == before


async def seconds_to_start(method: str) -> float:
    """Return how long a pool takes to its first result on this machine, now."""
    started = time.monotonic()
    async with fault_pool(f"timed {method}", max_workers=1, start_method=method) as pool:
        await pool.run(functions.pid)
        return time.monotonic() - started


async def restarted(pool: Pool) -> None:
    """Wait until a pool works whose workers could not be started for a while."""
    while True:
        try:
            await pool.run(functions.pid)
        except WorkerStartError:  # the attempt that was under way
            continue
        return


@pytest.mark.parametrize("fault", ["raise", "os._exit"])
async def test_failing_start_does_not_disturb_workers_that_run(
    method: str, tmp_path: Path, fifo: Callable[[str], Fifo], fault: str
) -> None:
    """When no more workers come up, the pool goes on with those it has."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    flag = tmp_path / "flag"
    async with fault_pool(
        f"half {method}",
        max_workers=2,
        spare_workers=0,
        start_method=method,
        initializer=functions.fault_while_exists,
        initargs=(fault, report.path, str(flag)),
    ) as pool:
        flag.touch()
        results = []

        async def hold() -> None:
            results.append(await pool.run(functions.hold, entered.path, gate.path))

        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            pid = await entered.heard()
            group.start_soon(hold)
            for _ in range(3):
                await report.heard()
            assert pool.statistics().queued == 1
            gate.let(2)
    assert [each for _, each in results] == [pid, pid]


async def test_many_crashes_cost_exactly_the_tasks_that_ran(
    method: str, fifo: Callable[[str], Fifo]
) -> None:
    """Of many calls, each fails if it asked for it, and no other does."""
    report = fifo("report")
    outcomes: dict[int, object] = {}
    async with fault_pool(f"many {method}", max_workers=2, start_method=method) as pool:

        async def call(number: int) -> None:
            try:
                if number % 5:
                    outcomes[number] = await pool.run(functions.echo, number)
                else:
                    await pool.run(functions.run_fault, "SIGKILL", report.path)
            except OffloadError as error:
                outcomes[number] = type(error)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(call, number)
        assert pool.statistics().crashed == 20
    assert outcomes == {
        number: number if number % 5 else WorkerCrashedError for number in range(100)
    }


@pytest.mark.parametrize("how", ["result", "large result", "exception"])
async def test_worker_above_its_memory_limit_is_replaced_after_its_task(
    method: str, fifo: Callable[[str], Fifo], how: str
) -> None:
    """`max_worker_memory_bytes` costs no call: what the worker made arrives, and it is replaced."""
    entered, gate = fifo("entered"), fifo("gate")
    grow = 150 << 20
    async with (
        fault_pool(
            f"memory {method}",
            max_workers=2,
            spare_workers=0,
            start_method=method,
            max_worker_memory_bytes=grow,
        ) as pool,
        anyio.create_task_group() as group,
    ):
        group.start_soon(pool.run, functions.hold, entered.path, gate.path)
        neighbour = await entered.heard()
        small = await pool.run(functions.keep_memory, 1 << 20)
        if how == "exception":
            with pytest.raises(ChildProcessError) as caught:
                await pool.run(functions.keep_memory_and_raise, grow)
            (grown,) = caught.value.args
        elif how == "large result":
            result = await pool.run(functions.keep_and_return, grow)
            grown = int.from_bytes(result[:8], "little")
            assert len(result) > 1 << 20
        else:
            grown = await pool.run(functions.keep_memory, grow)
        assert grown == small
        await gone(grown)
        assert is_alive(neighbour)
        assert await pool.run(functions.pid) not in (grown, neighbour)
        assert (pool.statistics().recycled, pool.statistics().crashed) == (1, 0)
        gate.let()


@pytest.mark.parametrize("method", METHODS)
async def test_process_in_the_background_is_its_own_workers_affair(
    method: str, fifo: Callable[[str], Fifo]
) -> None:
    """A neighbour's crash does not take what a live worker's task has put in the background."""
    report, entered, gate = fifo("report"), fifo("entered"), fifo("gate")
    async with (
        fault_pool(f"helpers {method}", max_workers=2, start_method=method) as pool,
        anyio.create_task_group() as group,
    ):
        group.start_soon(pool.run, functions.hold_with_helpers, entered.path, gate.path)
        helpers = [await entered.heard() for _ in range(3)]
        with pytest.raises(WorkerCrashedError):
            await pool.run(functions.run_fault, "SIGKILL", report.path)
        # It would take a moment to be seen to end.
        left = await anyio.to_thread.run_sync(partial(gone_now, *helpers, seconds=0.2))
        assert left == helpers
        gate.let()
    await gone(*helpers)


def fault_pool(name: str, **options: Any) -> Any:
    """Return a pool that is forgotten when it closes."""
    options = {"os_priority": "normal"} | options
    return _FaultPool(Pool(name, **options))


class _FaultPool:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def __aenter__(self) -> Pool:
        return await self.pool.__aenter__()

    async def __aexit__(self, *how: object) -> None:
        try:
            await self.pool.__aexit__(*how)
        finally:
            inside.forget(self.pool)

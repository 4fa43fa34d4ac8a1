"""What every pool does, whatever its workers are made of; one suite over all kinds of worker."""

import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest

from offload import (
    ArgumentError,
    FunctionNotFoundError,
    Hardening,
    Pool,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    RemoteError,
    ResultError,
    TaskTimeoutError,
    WorkerCrashedError,
    in_worker,
    offload,
)
from offload.errors import RemoteTraceback
from tests.support import inside
from tests.support.functions import pool as functions
from tests.support.processes import PATIENCE, Fifo, gone, is_alive, longer_and_longer, until

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Kind:
    """A kind of worker, and all in which it differs from the others."""

    options: Callable[[], dict[str, Any]]
    can_stop: bool = True  # a running function: by ending its process
    has_own_process: bool = True  # so that a crash costs one task
    can_stream: bool = True
    can_be_asked_to_stop: bool = True  # by `task_context().cancelled()`
    knows_whether_started: bool = True  # when it crashes


KINDS = {
    "forkserver": Kind(lambda: {"start_method": "forkserver"}),
    "spawn": Kind(lambda: {"start_method": "spawn"}),
    # As far as this system allows that; the tests' pipes are below the folder for temporary files.
    "hardened": Kind(lambda: {"harden": Hardening(writable=[tempfile.gettempdir()], strict=False)}),
    "data": Kind(lambda: {"results": "data"}),
    "ProcessPoolExecutor": Kind(
        lambda: {"executor": ProcessPoolExecutor},
        can_stream=False,
        can_be_asked_to_stop=False,
        knows_whether_started=False,
    ),
    "threads, one executor each": Kind(
        lambda: {"executor": partial(ThreadPoolExecutor, 1)},
        can_stop=False,
        has_own_process=False,
        can_stream=False,
        can_be_asked_to_stop=False,
    ),
    "threads, one executor shared": Kind(
        lambda: {"executor": ThreadPoolExecutor(2)},
        can_stop=False,
        has_own_process=False,
        can_stream=False,
        can_be_asked_to_stop=False,
    ),
}
if sys.version_info >= (3, 14):
    KINDS["interpreters"] = Kind(
        lambda: {"executor": futures.InterpreterPoolExecutor},
        can_stop=False,
        has_own_process=False,
        can_stream=False,
        can_be_asked_to_stop=False,
    )


@pytest.fixture(scope="module", params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    """Name of a kind of worker."""
    return request.param


@pytest.fixture(scope="module")
def kind(name: str) -> Kind:
    """One kind of worker after the other."""
    return KINDS[name]


@pytest.fixture(scope="module")
def pool(name: str, kind: Kind) -> Iterator[Pool]:
    """One pool for all tests of a kind: each finds it as usable as the one before."""
    pool = Pool(f"contract {name}", max_workers=2, max_queued=2, **kind.options())
    anyio.run(pool.open)
    yield pool
    anyio.run(partial(pool.aclose, drain=5.0))
    executor = inside.executor_of(pool)
    if isinstance(executor, ThreadPoolExecutor):
        executor.shutdown()
    inside.forget(pool)


@pytest.fixture(autouse=True)
async def leaves_pool_usable(pool: Pool) -> AsyncIterator[None]:
    """Each test leaves both workers free, and no call behind."""
    yield
    await until(lambda: not pool.statistics().busy and not pool.statistics().queued)
    with anyio.fail_after(PATIENCE):
        assert await pool.run(functions.echo, "usable") == "usable"


async def both_busy(pool: Pool, entered: Fifo, gate: Fifo, group: Any, results: list[Any]) -> None:
    """Return when both workers of the pool are held at the gate."""

    async def hold(value: int) -> None:
        results.append(await pool.run(functions.hold, entered.path, gate.path, value))

    for value in range(2):
        group.start_soon(hold, value)
    for _ in range(2):
        await entered.heard()


async def test_result_comes_back(pool: Pool) -> None:
    """Positional and keyword arguments reach the function, and its result the caller."""
    assert await pool.run(functions.echo, {"a": [1, 2.5, None]}, again=("b", b"c")) == (
        {"a": [1, 2.5, None]},
        ("b", b"c"),
    )


async def test_worker_process_is_as_declared(pool: Pool, kind: Kind) -> None:
    """The function runs in another process exactly where the kind says so, never on our thread."""
    pid, thread = await pool.run(functions.ident)
    assert (pid != os.getpid()) == kind.has_own_process
    assert (pid, thread) != (os.getpid(), threading.get_ident())


@pytest.mark.guarantee(8)
async def test_exception_keeps_its_type_and_shows_the_workers_traceback(pool: Pool) -> None:
    """A remote exception is raised as itself; its cause is the traceback of the worker."""
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        await pool.run(functions.divide, 1, 0)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in divide" in str(caught.value.__cause__)
    assert "offload/_child" not in str(caught.value.__cause__)


@pytest.mark.guarantee(5)
async def test_unpicklable_argument_is_named(pool: Pool) -> None:
    """An argument that does not pickle fails its own call at once, and the error names it."""
    with pytest.raises(ArgumentError, match="value\\['deep'\\]\\[1\\]") as caught:
        await pool.run(functions.echo, {"deep": [1, threading.Lock()]})
    assert caught.value.parameter == "value"


@pytest.mark.guarantee(5)
async def test_unpicklable_result_is_an_error(pool: Pool) -> None:
    """A result that does not pickle fails its own call, with the reason."""
    with pytest.raises(ResultError, match=r"live connection|functions\.pool\.Unpicklable"):
        await pool.run(functions.return_unpicklable)


@pytest.mark.guarantee(5)
async def test_exception_that_does_not_unpickle_becomes_remote_error(pool: Pool) -> None:
    """An exception whose class cannot be rebuilt is told by name and text."""
    with pytest.raises(RemoteError) as caught:
        await pool.run(functions.raise_not_back)
    assert caught.value.type_name == "tests.support.functions.pool.PicklesNotBack"
    assert caught.value.remote_message == "1 and 2"
    assert "in raise_not_back" in caught.value.remote_traceback


@pytest.mark.guarantee(3)
@pytest.mark.parametrize(
    "fault, type_name", [("sys.exit", "SystemExit"), ("KeyboardInterrupt", "KeyboardInterrupt")]
)
async def test_exit_of_a_function_does_not_exit_the_server(
    pool: Pool, entered: Fifo, fault: str, type_name: str
) -> None:
    """What would end the server is not raised in it: SystemExit and KeyboardInterrupt."""
    with pytest.raises(RemoteError) as caught:
        await pool.run(functions.run_fault, fault, entered.path)
    assert caught.value.type_name == type_name


@pytest.mark.guarantee(5)
async def test_missing_function_is_not_found(pool: Pool, kind: Kind) -> None:
    """A function that a worker cannot import did not run, and the error says why."""
    vanished = partial(functions.pid)
    vanished.__module__ = "tests.support.functions.pool"  # type: ignore[attr-defined]
    vanished.__qualname__ = "vanished"  # type: ignore[attr-defined]
    with pytest.raises(FunctionNotFoundError, match="vanished"):
        await pool.run(vanished)


async def test_no_more_run_at_once_than_allowed(pool: Pool, entered: Fifo, gate: Fifo) -> None:
    """With `max_workers` calls running the next one waits, and runs when one of them has ended."""
    results: list[Any] = []
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            await both_busy(pool, entered, gate, group, results)
            group.start_soon(pool.run, functions.knock, entered.path)
            await until(lambda: pool.statistics().queued)
            assert pool.statistics().busy == 2
            assert entered.rest() == []
            gate.let(2)
    assert sorted(value for value, _ in results) == [0, 1]
    assert len(entered.rest()) == 1


@pytest.mark.guarantee(6)
async def test_full_queue_refuses_at_once(pool: Pool, entered: Fifo, gate: Fifo) -> None:
    """Past `max_queued` a call is refused, with the time until a place should be free."""
    before = pool.statistics().refused
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            await both_busy(pool, entered, gate, group, [])
            for _ in range(2):
                group.start_soon(pool.run, functions.pid)
            await until(lambda: pool.statistics().queued == 2)
            with pytest.raises(QueueFullError) as caught:
                await pool.run(functions.knock, entered.path)
            gate.let(2)
    assert caught.value.retry_after > 0
    assert caught.value.limit == "max_queued"
    assert pool.statistics().refused == before + 1
    assert entered.rest() == []


@pytest.mark.guarantee(4)
async def test_cancelled_in_the_queue_never_runs(pool: Pool, entered: Fifo, gate: Fifo) -> None:
    """A call that is cancelled while it waits is taken out of the queue."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            await both_busy(pool, entered, gate, group, [])
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(pool.run, functions.knock, entered.path)
                await until(lambda: pool.statistics().queued)
                waiting.cancel_scope.cancel()
            await until(lambda: not pool.statistics().queued)
            gate.let(2)
    assert entered.rest() == []


@pytest.mark.guarantee(4)
async def test_queue_timeout_means_it_never_runs(pool: Pool, entered: Fifo, gate: Fifo) -> None:
    """A call that waits longer than its `queue_timeout` fails, and does not run later."""
    waiting = offload(pool=pool, queue_timeout=0.02)(functions.knock)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            await both_busy(pool, entered, gate, group, [])
            with pytest.raises(QueueTimeoutError) as caught:
                await waiting(entered.path)
            gate.let(2)
    assert caught.value.timeout == 0.02
    assert caught.value.retry_after > 0
    assert entered.rest() == []


@pytest.mark.guarantee(4)
async def test_cancelled_while_running(pool: Pool, kind: Kind, entered: Fifo, gate: Fifo) -> None:
    """A cancelled call stops burning CPU where its worker can be stopped; nobody waits for it."""
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hold, entered.path, gate.path)
            pid = await entered.heard()
            group.cancel_scope.cancel()
        if kind.can_stop:
            await gone(pid)
        else:
            assert pool.statistics().busy == 1
            gate.let()
            await until(lambda: not pool.statistics().busy)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # as worker programs are
async def test_call_that_outlasts_its_worker(
    pool: Pool, kind: Kind, entered: Fifo, gate: Fifo, anyio_backend: str
) -> None:
    """Where that is wanted, a cancelled call ends when nothing of it runs, and no sooner."""
    invocation = inside.invocation_of(pool, functions.hold, entered.path, gate.path)
    ended = anyio.Event()
    runs_on: list[bool] = []

    async def run() -> None:
        try:
            await pool.run_invocation(invocation._replace(outlasts_worker=True))
        finally:
            runs_on.append(is_alive(pid) if kind.can_stop else bool(pool.statistics().busy))
            ended.set()

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            pid = await entered.heard()
            group.cancel_scope.cancel()
            if not kind.can_stop:
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                    assert not ended.is_set()
                    gate.let()
    assert runs_on == [False]


@pytest.mark.guarantee(4)
async def test_timeout_while_running(pool: Pool, kind: Kind, entered: Fifo, gate: Fifo) -> None:
    """A function that runs longer than its `timeout` fails its call, and is stopped if possible."""
    for timeout in longer_and_longer(0.05):
        held = offload(pool=pool, timeout=timeout)(functions.hold)
        before = pool.statistics()
        with pytest.raises(TaskTimeoutError) as caught:
            await held(entered.path, gate.path)
        assert caught.value.timeout == timeout
        now, has_begun = pool.statistics(), caught.value.may_have_run
        assert now.timed_out == before.timed_out + has_begun
        assert now.not_started == before.not_started + (not has_begun)
        # What can be stopped may have been before it said anything.
        pids = entered.rest() if kind.can_stop else [await entered.heard()]
        if pids:
            break
    if kind.can_stop:
        await gone(*pids)
    else:
        assert pool.statistics().busy == 1
        gate.let()


async def test_what_cannot_be_stopped_is_said(pool: Pool, kind: Kind) -> None:
    """The repr of a pool says whether a running task can be stopped."""
    assert ("cannot stop a running task" in repr(pool)) == (not kind.can_stop)


@pytest.mark.guarantee(3)
@pytest.mark.parametrize("fault", ["os._exit", "segfault", "SIGKILL"])
async def test_crash_costs_one_task(  # noqa: PLR0917 - fixtures
    pool: Pool, kind: Kind, entered: Fifo, gate: Fifo, tmp_path: Any, fault: str
) -> None:
    """A worker that dies fails its own call, with how it died, and its neighbour goes on."""
    if not kind.has_own_process:
        # Nothing stands between a thread and the server: the docs say so, no test can.
        assert (await pool.run(functions.ident))[0] == os.getpid()
        return
    results = []
    with Fifo(tmp_path / "report") as report, anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:

            async def neighbour() -> None:
                results.append(await pool.run(functions.hold, entered.path, gate.path, "well"))

            group.start_soon(neighbour)
            neighbour_pid = await entered.heard()
            with pytest.raises(WorkerCrashedError) as caught:
                await pool.run(functions.run_fault, fault, report.path)
            assert caught.value.pid == await report.heard()
            gate.let()
    assert results == [("well", neighbour_pid)]
    assert caught.value.may_have_run
    how = (caught.value.exit_code, caught.value.signal)
    assert how == {"os._exit": (3, None), "segfault": (None, 11), "SIGKILL": (None, 9)}[fault]


@pytest.mark.guarantee(5)
async def test_crash_while_unpickling_tells_what_is_known(
    pool: Pool, kind: Kind, entered: Fifo
) -> None:
    """`started` is False if the function was surely not entered, and True where nobody knows."""
    if not kind.has_own_process:
        assert (await pool.run(functions.ident))[0] == os.getpid()
        return
    argument = functions.FaultWhenUnpickled("SIGKILL", entered.path)
    with pytest.raises(WorkerCrashedError) as caught:
        await pool.run(functions.echo, argument)
    assert caught.value.may_have_run == (not kind.knows_whether_started)


async def test_crash_is_retried_where_asked(pool: Pool, kind: Kind, entered: Fifo) -> None:
    """`max_crash_retries` runs an idempotent function again, that many times."""
    if not kind.has_own_process:
        assert (await pool.run(functions.ident))[0] == os.getpid()
        return
    stubborn = offload(pool=pool, max_crash_retries=2)(functions.run_fault)
    with pytest.raises(WorkerCrashedError):
        await stubborn("SIGKILL", entered.path)
    assert len(set(entered.rest())) == 3


async def test_stream_or_clear_refusal(pool: Pool, kind: Kind) -> None:
    """Generators stream where the kind can, and are refused with what to do where it cannot."""
    counted = offload(pool=pool)(functions.count_to)
    if not kind.can_stream:
        with pytest.raises(NotImplementedError, match="return a list"):
            await anext(counted.stream(3))
        return
    async with counted.stream(100) as items:
        assert [item async for item in items] == list(range(100))


async def test_worker_knows_that_it_is_one(pool: Pool) -> None:
    """`in_worker` is true in a worker and false here."""
    assert await pool.run(functions.inside)
    assert not in_worker()


async def test_nested_call_runs_inline(pool: Pool) -> None:
    """An offloaded function that is called in a worker runs there, not on another worker."""
    outer, (inner, is_inside) = await pool.run(functions.nested)
    assert inner == outer
    assert is_inside


async def test_task_knows_its_deadline(pool: Pool) -> None:
    """`task_context()` names the function and tells when it will be stopped."""
    name = "tests.support.functions.pool:task_facts"
    assert await pool.run(functions.task_facts) == (name, None, False)
    function, left, is_cancelled = await offload(pool=pool, timeout=3600)(functions.task_facts)()
    assert (function, is_cancelled) == (name, False)
    assert left is not None
    assert 3600 - PATIENCE < left <= 3600


async def test_request_to_stop_arrives_as_declared(pool: Pool, kind: Kind, entered: Fifo) -> None:
    """A function with `grace` is asked to stop, ends by itself, and its worker stays."""
    if not kind.can_be_asked_to_stop:
        assert (await pool.run(functions.task_facts))[2] is False
        return
    patient = offload(pool=pool, grace=PATIENCE)(functions.hold_until_cancelled)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(patient, entered.path)
            pid = await entered.heard()
            group.cancel_scope.cancel()
        await until(lambda: not pool.statistics().leaving)
    assert is_alive(pid)
    assert pid in {worker.pid for worker in pool.statistics().workers}


@pytest.mark.parametrize("size", [0, 1, 60_000, 65_536, 70_000, 5_000_000])
async def test_payload_of_any_size_crosses_whole(pool: Pool, size: int) -> None:
    """Small and large, as bytes, text and containers: what comes back is what was sent."""
    data = os.urandom(size)
    assert await pool.run(functions.echo, data) == data
    assert await pool.run(functions.echo, bytearray(data)) == data
    text = data.hex()
    assert await pool.run(functions.echo, [text, {"of": data}]) == [text, {"of": data}]


async def test_many_calls_at_once_all_come_back(pool: Pool) -> None:
    """Each caller gets its own result, whatever the order in which workers reply."""
    results: dict[int, int] = {}
    limiter = anyio.CapacityLimiter(4)  # two run, two wait: as much as the pool admits

    async def call(number: int) -> None:
        async with limiter:
            results[number] = await pool.run(functions.echo, number)

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(call, number)
    assert results == {number: number for number in range(200)}


async def test_loops_in_threads_share_the_pool(pool: Pool, anyio_backend: Any) -> None:
    """Several event loops in threads use one pool at once, and each gets its own results."""
    backend, options = anyio_backend

    async def calls(first: int) -> list[int]:
        return [await pool.run(functions.echo, first + index) for index in range(50)]

    def thread(first: int) -> list[int]:
        return anyio.run(calls, first, backend=backend, backend_options=options)

    results: dict[int, list[int]] = {}

    async def collect(first: int) -> None:
        results[first] = await anyio.to_thread.run_sync(thread, first)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for first in (0, 1000, 2000):
                group.start_soon(collect, first)
    assert results == {first: list(range(first, first + 50)) for first in (0, 1000, 2000)}


async def test_executor_view_runs_on_the_pool(pool: Pool, kind: Kind) -> None:
    """The pool as a `concurrent.futures.Executor` runs functions where the pool does."""
    with pool.executor() as view:
        future = view.submit(functions.ident)
        pid, _ = await anyio.to_thread.run_sync(future.result, PATIENCE)
    assert (pid != os.getpid()) == kind.has_own_process


@pytest.mark.guarantee(7)
async def test_close_fails_what_still_runs(kind: Kind, entered: Fifo, gate: Fifo) -> None:
    """Closing fails running calls, which may have run, and queued ones, which did not."""
    options = kind.options()
    pool = Pool("closing", max_workers=1, **options)
    errors: dict[str, PoolClosedError] = {}

    async def failing(name: str) -> None:
        with pytest.raises(PoolClosedError) as caught:
            await pool.run(functions.hold, entered.path, gate.path)
        errors[name] = caught.value

    try:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(failing, "running")
                pid = await entered.heard()
                group.start_soon(failing, "queued")
                await until(lambda: pool.statistics().queued)
                await pool.aclose(drain=0)
            if kind.has_own_process:
                await gone(pid)
        with pytest.raises(PoolClosedError) as caught:
            await pool.run(functions.pid)
    finally:
        gate.let()
        executor = options.get("executor")
        if isinstance(executor, ThreadPoolExecutor):
            executor.shutdown()
        inside.forget("closing")
    assert errors["running"].may_have_run
    assert not errors["queued"].may_have_run
    assert not caught.value.may_have_run
    assert pool.statistics().state == "closed"


async def test_loop_that_ends_leaves_its_worker_to_others(
    pool: Pool, kind: Kind, entered: Fifo, gate: Fifo, anyio_backend: Any
) -> None:
    """A call whose event loop ended before it costs the pool no worker."""
    backend, options = anyio_backend

    async def abandon() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hold, entered.path, gate.path)
            await entered.heard()
            group.cancel_scope.cancel()

    await anyio.to_thread.run_sync(
        partial(anyio.run, abandon, backend=backend, backend_options=options)
    )
    gate.let()
    await until(lambda: not pool.statistics().busy)

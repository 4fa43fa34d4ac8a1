"""The pool of worker processes: its options, its life, its limits, its workers."""

import contextlib
import dataclasses
import gc
import itertools
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from offload import (
    DeadlineError,
    OffloadError,
    Pool,
    PoolClosedError,
    QueueFullError,
    QueueTimeoutError,
    TaskKilledError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
    in_worker,
    offload,
    task_context,
)
from offload._system import BLAS_VARIABLES
from offload._workers.keeper import threads
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import pool as functions
from tests.support.processes import (
    PATIENCE,
    Fifo,
    gone,
    is_alive,
    longer_and_longer,
    parent_of,
    until,
)

_numbers = itertools.count()

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def new_pool() -> Iterator[Callable[..., Pool]]:
    """Makes pools, and forgets them when the test has closed them."""
    made: list[Pool] = []

    def make(**options: Any) -> Pool:
        # At normal priority: these tests are about other things than who goes first.
        made.append(Pool(f"test {next(_numbers)}", **{"os_priority": "normal"} | options))
        return made[-1]

    yield make
    for pool in made:
        inside.forget_if_known(pool.name)


class Held:
    """Calls that are held at a gate, and what came of them."""

    def __init__(self, pool: Pool, entered: Fifo, gate: Fifo, group: Any) -> None:
        self.pool, self.entered, self.gate, self.group = pool, entered, gate, group
        self.results: list[Any] = []

    async def start(self, count: int = 1, **options: Any) -> list[int]:
        """Hold so many more workers; return their process ids."""
        function = offload(pool=self.pool, **options)(functions.hold)

        async def call() -> None:
            try:
                self.results.append(await function(self.entered.path, self.gate.path))
            except OffloadError as error:
                self.results.append(error)

        for _ in range(count):
            self.group.start_soon(call)
        return [await self.entered.heard() for _ in range(count)]


# --- options ---


@pytest.mark.parametrize(
    "options, error",
    [
        ({"name": ""}, TypeError),
        ({"name": 1}, TypeError),
        ({"min_workers": -1}, ValueError),
        ({"min_workers": True}, TypeError),
        ({"max_workers": 0}, ValueError),
        ({"max_workers": 1.5}, TypeError),
        ({"min_workers": 3, "max_workers": 2}, ValueError),
        ({"spare_workers": -1}, ValueError),
        ({"spare_workers": None}, TypeError),
        ({"max_queued": -1}, ValueError),
        ({"max_queued_bytes": 0}, ValueError),
        ({"idle_timeout": 0}, ValueError),
        ({"idle_timeout": "60"}, TypeError),
        ({"timeout": 0}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"queue_timeout": -1}, ValueError),
        ({"start_timeout": None}, TypeError),
        ({"start_timeout": float("nan")}, ValueError),
        ({"os_priority": "high"}, ValueError),
        ({"start_method": "fork"}, ValueError),
        ({"max_tasks_per_worker": 0}, ValueError),
        ({"max_worker_memory_bytes": 1.0}, TypeError),
        ({"preload": "json"}, TypeError),
        ({"env": {"NAME": 1}}, TypeError),
        ({"env": {"A=B": "1"}}, ValueError),
        ({"env": {"NAME": "a\0b"}}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"initializer": functions.initialize, "initargs": "one"}, TypeError),
        ({"initializer": functions.initialize, "initargs": (threading.Lock(),)}, TypeError),
        ({"initializer": lambda: None}, TypeError),
    ],
    # Without addresses: the tests of all processes of a run must have the same names.
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),
)
def test_wrong_option_is_refused_when_the_pool_is_made(
    options: dict[str, Any], error: type[Exception]
) -> None:
    """What cannot work is an error where it is written, and names the option."""
    name = options.pop("name", "wrong")
    try:
        with pytest.raises(error) as caught:
            Pool(name, **options)
        assert next(iter(options), "name").removesuffix("s") in str(caught.value)
        assert inside.known(name) is None
    finally:
        inside.forget_if_known(name)


def test_two_pools_of_one_name_are_refused(new_pool: Callable[..., Pool]) -> None:
    """The name of a pool is unique in the process, and finds it."""
    pool = new_pool()
    with pytest.raises(ValueError, match="already"):
        Pool(pool.name)
    assert Pool.named(pool.name) is pool


def test_pool_starts_nothing_until_it_is_used(new_pool: Callable[..., Pool]) -> None:
    """To make a pool costs nothing: no process, no thread."""
    threads = threading.enumerate()
    pool = new_pool(min_workers=2, max_workers=2)
    assert pool.statistics().state == "new"
    assert threading.enumerate() == threads


# --- life ---


@pytest.mark.guarantee(1)
@pytest.mark.anyio
async def test_open_starts_min_workers_warm(new_pool: Callable[..., Pool]) -> None:
    """When `open` returns, `min_workers` are ready, without having run anything."""
    pool = new_pool(min_workers=2, max_workers=3)
    await pool.open()
    now = pool.statistics()
    assert (now.state, now.idle, now.busy, now.completed) == ("open", 2, 0, 0)
    await pool.aclose()


@pytest.mark.anyio
async def test_open_starts_at_least_one_worker(new_pool: Callable[..., Pool]) -> None:
    """Somebody who opens a pool wants it warm."""
    async with new_pool(max_workers=3) as pool:
        assert pool.statistics().idle == 1


@pytest.mark.anyio
async def test_pool_opens_at_its_first_call(new_pool: Callable[..., Pool]) -> None:
    """Nobody has to open a pool."""
    pool = new_pool(max_workers=1)
    assert await pool.run(functions.echo, 1) == 1
    assert pool.statistics().state == "open"
    await pool.aclose()


@pytest.mark.anyio
async def test_closed_pool_refuses_and_can_be_opened_again(new_pool: Callable[..., Pool]) -> None:
    """A call on a closed pool fails, and starts nothing; `open` makes the pool new."""
    pool = new_pool(max_workers=1)
    first = await pool.run(functions.pid)
    await pool.aclose()
    assert pool.statistics().state == "closed"
    with pytest.raises(PoolClosedError, match="did not run") as caught:
        await pool.run(functions.pid)
    assert not caught.value.may_have_run
    assert not is_alive(first)
    async with pool:
        assert pool.statistics().state == "open"
        assert await pool.run(functions.pid) != first
    assert pool.statistics().state == "closed"


@pytest.mark.anyio
async def test_close_lets_running_and_queued_calls_end(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """While a pool drains it refuses new calls, and those that it has accepted end well."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            async with anyio.create_task_group() as closing:
                closing.start_soon(partial(pool.aclose, drain=None))
                await until(lambda: pool.statistics().state == "draining")
                with pytest.raises(PoolClosedError):
                    await pool.run(functions.pid)
                gate.let(2)
    assert [value for value, _ in held.results] == [None, None]
    assert pool.statistics().state == "closed"


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_close_kills_what_outlives_the_drain(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """After `drain` seconds running and queued calls fail, each with whether it may have run."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            await pool.aclose(drain=0.05)
            assert not is_alive(pid)
            await until(lambda: len(held.results) == 2)
            group.cancel_scope.cancel()
    assert {type(error) for error in held.results} == {PoolClosedError}
    assert {error.may_have_run for error in held.results} == {True, False}


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_cancelled_close_kills_at_once(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A server that has no time to drain leaves nothing behind all the same."""
    pool = new_pool(max_workers=1)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start()
            supervisor = parent_of(pid)
            with anyio.move_on_after(0.05) as scope:
                await pool.aclose(drain=None)
            assert scope.cancelled_caught
            # When it returns, on every event loop.
            assert not is_alive(pid)
            await until(lambda: held.results)
        await gone(pid, supervisor)
    (error,) = held.results
    assert isinstance(error, PoolClosedError)


@pytest.mark.anyio
async def test_exception_closes_at_once(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """`async with` does not wait for calls when it is left by an exception."""
    began = time.monotonic()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012
        async with new_pool(max_workers=1) as pool, anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hold, entered.path, gate.path)
            await entered.heard()
            raise LookupError
    assert caught.group_contains(LookupError)
    assert time.monotonic() - began < PATIENCE
    assert pool.statistics().state == "closed"


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_kill_from_any_thread_ends_everything(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """`kill` needs no event loop, and its future tells when nothing is left."""
    pool = new_pool(max_workers=1)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        (pid,) = await held.start()
        await anyio.to_thread.run_sync(lambda: pool.kill().result(PATIENCE))
        assert not is_alive(pid)
    assert isinstance(held.results[0], PoolClosedError)


@pytest.mark.guarantee(7)
@pytest.mark.anyio
@pytest.mark.holds_loop("it waits for the end of workers on the very loop that they work for")
async def test_kill_may_be_awaited_by_blocking_the_loop(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """Whoever waits for the end by blocking the loop that the workers were used on gets it."""
    pool = new_pool(max_workers=2)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        (pid,) = await held.start()
        await pool.run(functions.pid)
        pool.kill().result(PATIENCE)
        assert not is_alive(pid)
    assert isinstance(held.results[0], PoolClosedError)


@pytest.mark.anyio
async def test_everybody_who_closes_waits_for_the_end(new_pool: Callable[..., Pool]) -> None:
    """To close twice, or at the same time, is no error."""
    pool = new_pool(max_workers=1)
    pid = await pool.run(functions.pid)
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(pool.aclose)
    assert not is_alive(pid)
    await pool.aclose()
    await new_pool().aclose()


# --- how many workers ---


@pytest.mark.anyio
@one_loop
async def test_no_more_workers_than_needed_and_a_spare(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A pool grows with its load: what runs, and the spare that the next call will find warm."""
    async with new_pool(max_workers=3, spare_workers=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            pids = set()
            for busy in (1, 2, 3):
                pids |= set(await held.start())
                await until(lambda: not pool.statistics().starting)
                now = pool.statistics()
                assert (now.busy, now.idle, len(now.workers)) == (busy, 1, busy + 1)
            gate.let(3)
        assert len(pids) == 3


@pytest.mark.anyio
@one_loop
async def test_no_spare_where_none_is_wanted(new_pool: Callable[..., Pool]) -> None:
    """With `spare_workers=0` one call at a time needs one worker."""
    async with new_pool(max_workers=2, spare_workers=0) as pool:
        for _ in range(3):
            await pool.run(functions.pid)
        now = pool.statistics()
        assert (now.idle, now.starting) == (1, 0)


@pytest.mark.anyio
@one_loop
async def test_idle_workers_retire_down_to_the_minimum(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """Workers that the recent load did not need end after `idle_timeout`; `min_workers` stay."""
    async with new_pool(min_workers=1, max_workers=3, idle_timeout=0.1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            pids = await held.start(3)
            gate.let(3)
        await until(lambda: len(pool.statistics().workers) == 1)
        assert sum(is_alive(pid) for pid in pids) <= 1
        assert await pool.run(functions.echo, 1) == 1
        assert pool.statistics().crashed == 0


@pytest.mark.anyio
@one_loop
async def test_retired_pool_starts_again(new_pool: Callable[..., Pool]) -> None:
    """With no minimum the last worker retires as well, and the next call starts a new one."""
    async with new_pool(max_workers=1, idle_timeout=0.05) as pool:
        first = await pool.run(functions.pid)
        await gone(first)
        await until(lambda: not pool.statistics().workers)
        assert await pool.run(functions.pid) != first


@pytest.mark.anyio
@one_loop
async def test_worker_is_recycled_by_count(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A worker is replaced after `max_tasks_per_worker`, without failing a call."""
    async with new_pool(max_workers=1, spare_workers=0, max_tasks_per_worker=3) as pool:
        pids = [await pool.run(functions.pid) for _ in range(9)]
        assert [len(list(run)) for _, run in itertools.groupby(pids)] == [3, 3, 3]
        await gone(*pids)
        assert pool.statistics().recycled == 3


@pytest.mark.guarantee(3)
@pytest.mark.anyio
async def test_recycling_under_load_loses_nothing(new_pool: Callable[..., Pool]) -> None:
    """Many calls at once on workers that are all replaced after each: every one has its result."""
    async with new_pool(max_workers=2, max_tasks_per_worker=1) as pool:
        echo = offload(pool=pool)(functions.echo)
        with anyio.fail_after(PATIENCE):
            assert await echo.map(range(40), max_concurrency=40) == list(range(40))
        assert pool.statistics().recycled == 40


@pytest.mark.anyio
@one_loop
async def test_worker_is_recycled_by_memory(new_pool: Callable[..., Pool]) -> None:
    """A worker that has grown above `max_worker_memory_bytes` is replaced after the task."""
    async with new_pool(
        max_workers=1, spare_workers=0, max_worker_memory_bytes=150 * 2**20
    ) as pool:
        small = [await pool.run(functions.keep_memory, 2**20) for _ in range(2)]
        assert len(set(small)) == 1
        grown = await pool.run(functions.keep_memory, 150 * 2**20)
        assert grown == small[0]
        await gone(grown)
        assert await pool.run(functions.pid) != grown
        assert pool.statistics().recycled == 1


# --- what workers are ---


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_initializer_runs_once_in_each_worker(
    new_pool: Callable[..., Pool], method: str
) -> None:
    """The initializer has run, with its arguments, before the first task of a worker."""
    options = {"initializer": functions.initialize, "initargs": ({"a": 1},)}
    async with new_pool(max_workers=1, start_method=method, **options) as pool:
        assert await pool.run(functions.initialized) == [{"a": 1}]
        assert await pool.run(functions.initialized) == [{"a": 1}]


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_failing_initializer_is_named(new_pool: Callable[..., Pool]) -> None:
    """When no worker comes up, calls and `open` fail with the initializer's traceback."""
    pool = new_pool(max_workers=1, initializer=functions.fail_to_initialize)
    with pytest.raises(WorkerStartError, match="no licence for this machine") as caught:
        await pool.open()
    assert "in fail_to_initialize" in caught.value.detail
    with pytest.raises(WorkerStartError, match="no licence for this machine"):
        await pool.run(functions.pid)
    await pool.aclose()


@pytest.mark.anyio
@one_loop
async def test_failed_open_leaves_nothing(new_pool: Callable[..., Pool]) -> None:
    """`async with` a pool that cannot start raises, and is closed."""
    pool = new_pool(max_workers=1, initializer=functions.fail_to_initialize)
    with pytest.raises(WorkerStartError):
        await pool.__aenter__()
    assert pool.statistics().state == "closed"


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_preloaded_modules_are_there(new_pool: Callable[..., Pool], method: str) -> None:
    """Modules of `preload` are imported before the first task, and others are not."""
    async with new_pool(max_workers=1, start_method=method, preload=["wave"]) as pool:
        assert await pool.run(functions.modules, "wave", "ftplib") == [True, False]


@pytest.mark.anyio
@one_loop
async def test_failing_preload_is_named(new_pool: Callable[..., Pool]) -> None:
    """A module that cannot be preloaded is named with the reason."""
    pool = new_pool(max_workers=1, preload=["json", "tests.no_such_module"])
    with pytest.raises(WorkerStartError, match="no_such_module"):
        await pool.run(functions.pid)
    await pool.aclose()


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_environment_of_workers(
    new_pool: Callable[..., Pool], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`env` sets and removes variables; thread pools of numeric libraries are capped."""
    monkeypatch.setenv("POOL_TEST_REMOVED", "here")
    monkeypatch.setenv("POOL_TEST_KEPT", "kept")
    for name in BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    env = {"POOL_TEST_REMOVED": None, "POOL_TEST_SET": "ü", "MKL_NUM_THREADS": "5"}
    async with new_pool(max_workers=1000, start_method=method, env=env) as pool:
        names = ("POOL_TEST_REMOVED", "POOL_TEST_KEPT", "POOL_TEST_SET")
        assert await pool.run(functions.environment, *names) == [None, "kept", "ü"]
        caps = await pool.run(functions.environment, *BLAS_VARIABLES)
    # Ours, where nobody has said anything; what the user says, here or outside, counts.
    expected = dict.fromkeys(BLAS_VARIABLES, "1")
    expected |= {"OMP_NUM_THREADS": "7", "MKL_NUM_THREADS": "5"}
    assert dict(zip(BLAS_VARIABLES, caps, strict=True)) == expected


@pytest.mark.guarantee(2)
@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize(
    "priority, policy, nice",
    [("idle", os.SCHED_IDLE, 0), ("low", os.SCHED_OTHER, 19), ("normal", os.SCHED_OTHER, 0)],
)
async def test_os_priority_is_really_applied(
    new_pool: Callable[..., Pool], method: str, priority: str, policy: int, nice: int
) -> None:
    """Workers run at the priority that the pool says."""
    own = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    async with new_pool(max_workers=1, start_method=method, os_priority=priority) as pool:
        pid = await pool.run(functions.pid)
        expected = own[1] if priority != "low" else min(19, own[1] + 19)
        assert os.sched_getscheduler(pid) == policy
        assert os.getpriority(os.PRIO_PROCESS, pid) == expected
        del nice
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == own


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_ctrl_c_is_for_the_server(new_pool: Callable[..., Pool], method: str) -> None:
    """Workers ignore SIGINT, and are not in the server's process group."""
    async with new_pool(max_workers=1, start_method=method) as pool:
        assert await pool.run(functions.interrupt_me) == "still here"
        pid = await pool.run(functions.pid)
        supervisor = parent_of(pid)
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getpgid(supervisor) != os.getpgid(0)
        os.kill(supervisor, signal.SIGINT)
        os.kill(supervisor, signal.SIGTERM)
        assert await pool.run(functions.pid) == pid


@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
async def test_exit_hooks_of_a_worker_run(
    new_pool: Callable[..., Pool], method: str, tmp_path: Path
) -> None:
    """A worker that is closed ends as an interpreter does: `atexit` hooks run."""
    path = tmp_path / "ended"
    async with new_pool(max_workers=1, start_method=method) as pool:
        await pool.run(functions.note_at_exit, str(path))
    assert path.exists()


@pytest.mark.anyio
@one_loop
async def test_worker_inherits_no_descriptor(new_pool: Callable[..., Pool]) -> None:
    """Neither files of the server nor sockets of sibling workers are open in a worker."""
    ours = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        async with new_pool(min_workers=2, max_workers=2) as pool:
            pids = {worker.pid for worker in pool.statistics().workers}
            links = [await anyio.to_thread.run_sync(links_of, pid) for pid in pids]
    finally:
        os.close(ours)
    assert len(links) == 2
    assert not {link for link in links[0] & links[1] if link.startswith("socket")}
    assert all("null" not in link for found in links for link in found)


def links_of(pid: int) -> set[str]:
    """Return what the descriptors of a process refer to, but the standard streams."""
    return {
        str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if int(link.name) > 2
    }


# --- the queue ---


@pytest.mark.guarantee(6)
@pytest.mark.anyio
async def test_full_by_count(new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo) -> None:
    """Past `max_queued` a call is refused at once, and did not run."""
    async with new_pool(max_workers=1, max_queued=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(held.start)
            await until(lambda: pool.statistics().queued == 1)
            with pytest.raises(QueueFullError, match="did not run") as caught:
                await pool.run(functions.pid)
            gate.let(2)
        assert caught.value.limit == "max_queued"
        assert pool.statistics().refused == 1
        assert await pool.run(functions.echo, 1) == 1


@pytest.mark.anyio
async def test_no_queue_at_all(new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo) -> None:
    """With `max_queued=0` a call runs at once, or is refused; the first waits for its worker."""
    pool = new_pool(max_workers=1, max_queued=0)
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        await held.start()
        with pytest.raises(QueueFullError):
            await pool.run(functions.pid)
        gate.let()
    assert await pool.run(functions.echo, 1) == 1
    await pool.aclose()


@pytest.mark.guarantee(6)
@pytest.mark.anyio
@pytest.mark.parametrize("size", [3000, 300_000])
async def test_full_by_bytes(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, size: int
) -> None:
    """Past `max_queued_bytes` of waiting arguments a call is refused; small ones still fit."""
    async with new_pool(max_workers=1, max_queued_bytes=2 * size) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(pool.run, functions.length, bytes(size))
            await until(lambda: pool.statistics().queued_bytes >= size)
            with pytest.raises(QueueFullError) as caught:
                await pool.run(functions.length, bytes(size))
            group.start_soon(pool.run, functions.length, b"")
            await until(lambda: pool.statistics().queued == 2)
            gate.let()
        assert caught.value.limit == "max_queued_bytes"
        now = pool.statistics()
        assert (now.refused, now.queued_bytes) == (1, 0)


@pytest.mark.anyio
@one_loop
async def test_retry_after_follows_measured_run_times(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A refused call is told how long the queue will take, by what runs have taken (Little)."""
    async with new_pool(max_workers=1, max_queued=1) as pool:
        for _ in range(3):
            await pool.run(time.sleep, 0.1)
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            group.start_soon(pool.run, functions.pid)
            await until(lambda: pool.statistics().queued == 1)
            with pytest.raises(QueueFullError) as caught:
                await pool.run(functions.pid)
            gate.let()
        # Two calls, of which one runs, after those that took 0.1 s, or what the machine made of it.
        assert 0.1 <= caught.value.retry_after <= 3 * pool.statistics().run.maximum


@pytest.mark.anyio
@one_loop
async def test_larger_priority_runs_first(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, tmp_path: Path
) -> None:
    """Waiting calls run by priority, and those of one priority in order of arrival."""
    path = tmp_path / "order"
    async with new_pool(max_workers=1) as pool:
        note = offload(pool=pool)(functions.note)
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            await held.start()
            for count, (name, priority) in enumerate(
                [("a", 0), ("b", 5), ("c", -1), ("d", 0), ("e", 5)], start=1
            ):
                group.start_soon(note.options(priority=priority), str(path), name)
                await until(lambda count=count: pool.statistics().queued == count)
            gate.let()
    assert path.read_text().split() == ["b", "e", "a", "d", "c"]


@pytest.mark.anyio
async def test_function_runs_no_more_often_at_once_than_it_may(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A function with `max_concurrency` waits for itself, and lets others pass."""
    async with new_pool(max_workers=3) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            limited = offload(pool=pool, max_concurrency=2)(functions.hold)
            for _ in range(4):
                group.start_soon(limited, entered.path, gate.path)
            for _ in range(2):
                await entered.heard()
            await until(lambda: pool.statistics().queued == 2)
            assert await pool.run(functions.echo, "passed") == "passed"
            assert pool.statistics().busy == 2
            assert entered.rest() == []
            gate.let(4)
            del held
        assert len(entered.rest()) == 2


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_queue_timeout_holds_while_no_worker_comes_up(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call does not wait longer than it wants to for a worker that is starting."""
    with Fifo(Path(entered.path + ".gate")) as gate:
        options = {"initializer": functions.hold, "initargs": (entered.path, gate.path)}
        pool = new_pool(max_workers=1, queue_timeout=0.05, **options)
        with pytest.raises(QueueTimeoutError):
            await pool.run(functions.pid)
        await entered.heard()
        await pool.aclose(drain=0)


@pytest.mark.anyio
async def test_queue_timeout_holds_for_a_call_that_went_back(
    new_pool: Callable[..., Pool],
) -> None:
    """A call that its dead worker never got waits again, but not for ever."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(functions.pid)
        supervisor = parent_of(pid)
        os.kill(supervisor, signal.SIGSTOP)  # it starts and buries nobody for a while
        try:
            os.kill(pid, signal.SIGKILL)
            await gone(pid)
            with anyio.fail_after(PATIENCE), pytest.raises(QueueTimeoutError):
                await offload(pool=pool, queue_timeout=0.1)(functions.pid)()
        finally:
            os.kill(supervisor, signal.SIGCONT)
        assert await pool.run(functions.pid) != pid


# --- timeouts, cancellation, crashes ---


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_timeout_stops_the_function(new_pool: Callable[..., Pool], entered: Fifo) -> None:
    """The worker of a call that timed out ends."""
    for timeout in longer_and_longer(0.25):
        async with new_pool(max_workers=1, timeout=timeout) as pool:
            with pytest.raises(TaskTimeoutError) as caught:
                await pool.run(functions.run_fault, "hang in native code", entered.path)
            assert caught.value.timeout == timeout
            assert pool.statistics().timed_out == 1
            # Of the call, before that of the pool.
            assert await offload(pool=pool, timeout=None)(functions.echo)(1) == 1
            if pids := entered.rest():
                assert caught.value.may_have_run
                assert "ran in part" in str(caught.value)
                await gone(*pids)
                break


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_cancelled_call_stops_with_its_children(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call whose caller is gone burns no CPU: it, and what it has started, end."""
    async with new_pool(max_workers=1) as pool:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, functions.hang_with_children, entered.path)
            pids = [await entered.heard() for _ in range(4)]
            group.cancel_scope.cancel()
        await gone(*pids)
        assert pool.statistics().cancelled == 1
        assert await pool.run(functions.echo, 1) == 1


@pytest.mark.anyio
async def test_grace_lets_a_function_stop_by_itself(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A function that looks at `cancelled()` keeps its worker, which is used again."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        patient = offload(pool=pool, grace=PATIENCE)(functions.hold_until_cancelled)
        async with anyio.create_task_group() as group:
            group.start_soon(patient, entered.path)
            pid = await entered.heard()
            group.cancel_scope.cancel()
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        # The flag is down again for the next task.
        assert (await pool.run(functions.task_facts))[2] is False


@pytest.mark.guarantee(4)
@pytest.mark.anyio
async def test_request_to_stop_is_not_lost_on_the_way(
    new_pool: Callable[..., Pool], entered: Fifo
) -> None:
    """A call that is cancelled before its worker has taken it is not entered, grace or not."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        patient = offload(pool=pool, grace=PATIENCE)(functions.hold_until_cancelled)
        pid = await pool.run(functions.pid)
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as group:
            group.start_soon(patient, entered.path)
            await until(lambda: pool.statistics().busy)
            group.cancel_scope.cancel()
        os.kill(pid, signal.SIGCONT)
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        assert not entered.rest()
        # The flag is down again for the next task.
        assert (await pool.run(functions.task_facts))[2] is False


NOT_BEGUN: dict[str, tuple[type[OffloadError], str]] = {
    "timeout": (TaskTimeoutError, "had not begun when its timeout of 0.1 s was over"),
    "deadline": (DeadlineError, "cannot end before its deadline"),
    "kill_task": (TaskKilledError, "was stopped by hand"),
}


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
@pytest.mark.parametrize("option", NOT_BEGUN)
async def test_function_that_was_not_entered_did_not_run(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo, option: str
) -> None:
    """A call that its worker had, but had not begun with, says so, and is not begun with later."""
    async with new_pool(max_workers=1, spare_workers=0) as pool:
        pid = await pool.run(functions.pid)
        options: Any = {
            "timeout": {"timeout": 0.1},
            "deadline": {"deadline": time.monotonic() + 0.1},
            "kill_task": {},
        }[option]
        patient = offload(pool=pool, grace=PATIENCE, **options)(functions.hold)
        kind, text = NOT_BEGUN[option]
        os.kill(pid, signal.SIGSTOP)
        errors: list[Any] = []

        async def one() -> None:
            with pytest.raises(kind, match=text) as caught:
                await patient(entered.path, gate.path)
            errors.append(caught.value)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(one)
                await until(lambda: pool.statistics().busy)
                if option == "kill_task":
                    pool.kill_task(pid)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert errors[0].may_have_run is False
        assert "did not run" in str(errors[0])
        await until(lambda: not pool.statistics().leaving)
        assert is_alive(pid)
        assert not entered.rest()


@pytest.mark.guarantee(4)
@pytest.mark.anyio
@one_loop
async def test_function_that_does_not_stop_in_time_is_killed(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """After `grace` seconds the worker of an unwanted call ends."""
    async with new_pool(max_workers=1) as pool:
        async with anyio.create_task_group() as group:
            held = Held(pool, entered, gate, group)
            (pid,) = await held.start(grace=0.1)
            began = time.monotonic()
            group.cancel_scope.cancel()
        await gone(pid)
        assert time.monotonic() - began >= 0.1


@pytest.mark.guarantee(5)
@pytest.mark.anyio
@one_loop
async def test_crash_is_told(new_pool: Callable[..., Pool], entered: Fifo) -> None:
    """Who died of what, and whether the function had begun."""
    async with new_pool(max_workers=1) as pool:
        with pytest.raises(WorkerCrashedError, match="SIGKILL") as caught:
            await pool.run(functions.run_fault, "SIGKILL", entered.path)
        assert pickle.loads(pickle.dumps(caught.value)).pid == await entered.heard()
        assert pool.statistics().crashed == 1


@pytest.mark.guarantee(3)
@pytest.mark.anyio
async def test_call_whose_worker_died_idle_runs_on_another(new_pool: Callable[..., Pool]) -> None:
    """The death of an idle worker is nobody's error."""
    async with new_pool(max_workers=1) as pool:
        for _ in range(5):
            pid = await pool.run(functions.pid)
            os.kill(pid, signal.SIGKILL)
            assert await pool.run(functions.pid) != pid
        assert pool.statistics().crashed == 0


# --- what a pool tells ---


@pytest.mark.anyio
@one_loop
async def test_statistics_tell_what_happened(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """Counters, histograms and workers are those of the calls that were made."""
    pool = new_pool(max_workers=1, spare_workers=0)
    assert dataclasses.replace(pool.statistics()).workers == ()
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        (pid,) = await held.start()
        (worker,) = pool.statistics().workers
        assert (worker.pid, worker.state) == (pid, "busy")
        assert worker.function == "tests.support.functions.pool:hold"
        assert 0 <= worker.run_seconds < PATIENCE
        gate.let()
    await pool.run(functions.echo, 1)
    with contextlib.suppress(ZeroDivisionError):
        await pool.run(functions.divide, 1, 0)
    now = pool.statistics()
    assert (now.completed, now.failed, now.idle, now.busy) == (2, 1, 1, 0)
    assert (now.run.count, now.wait.count) == (3, 3)
    assert 0 < now.run.minimum <= now.run.quantile(0.5) <= now.run.maximum < PATIENCE
    assert now.workers[0].tasks_done == 3
    await pool.aclose()


@pytest.mark.anyio
@one_loop
async def test_repr_tells_the_state(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """One line says who is busy with how much."""
    pool = new_pool(max_workers=1, spare_workers=0)
    name = pool.name
    assert repr(pool).startswith(f"<Pool '{name}' new: 0 busy of 1, 0 idle")
    async with anyio.create_task_group() as group:
        held = Held(pool, entered, gate, group)
        await held.start()
        group.start_soon(held.start)
        await until(lambda: pool.statistics().queued)
        assert repr(pool) == (
            f"<Pool '{name}' open: 1 busy of 1, 0 idle, 0 starting, 0 leaving, 1 queued "
            f"({inside.start_method(pool)}, priority normal)>"
        )
        gate.let(2)
    await pool.aclose()
    assert repr(pool).startswith(f"<Pool '{name}' closed: 0 busy of 1, 0 idle")


# --- several loops, several pools ---


@pytest.mark.anyio
@one_loop
async def test_pools_do_not_share_workers(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """A pool that is busy keeps no other waiting."""
    async with (
        new_pool(max_workers=1) as one,
        new_pool(max_workers=1) as other,
        anyio.create_task_group() as group,
    ):
        held = Held(one, entered, gate, group)
        (pid,) = await held.start()
        assert await other.run(functions.pid) != pid
        gate.let()


@pytest.mark.anyio
@pytest.mark.parametrize("workers", [1, 2])
async def test_workers_move_between_loops(
    new_pool: Callable[..., Pool], anyio_backend: Any, workers: int
) -> None:
    """Loops in threads that share few workers get every result, each its own, and none hangs."""
    backend, options = anyio_backend
    async with new_pool(max_workers=workers, spare_workers=0) as pool:

        async def calls(first: int) -> list[int]:
            return [await pool.run(functions.echo, first + index) for index in range(150)]

        def thread(first: int) -> list[int]:
            return anyio.run(calls, first, backend=backend, backend_options=options)

        results = {}

        async def collect(first: int) -> None:
            results[first] = await anyio.to_thread.run_sync(thread, first)

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for first in (0, 1000, 2000):
                    group.start_soon(collect, first)
        assert results == {first: list(range(first, first + 150)) for first in (0, 1000, 2000)}
        assert pool.statistics().crashed == 0


@pytest.mark.anyio
@one_loop
async def test_loop_that_is_closed_with_calls_pending_costs_nobody_else(
    new_pool: Callable[..., Pool], entered: Fifo, gate: Fifo
) -> None:
    """An event loop may be closed under its calls; the pool goes on for others."""
    import asyncio

    def forget_calls() -> None:
        loop = asyncio.SelectorEventLoop()
        running = loop.create_task(pool.run(functions.hold, entered.path, gate.path))
        queued = loop.create_task(pool.run(functions.knock, entered.path))
        loop.run_until_complete(entered.heard())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for task in (running, queued):
            inside.destroy_quietly(task)

    async with new_pool(max_workers=1) as pool:
        await anyio.to_thread.run_sync(forget_calls)
        gc.collect()
        with anyio.fail_after(PATIENCE):
            assert await pool.run(functions.echo, 1) == 1


# --- payloads ---


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without the garbage collector, which holds the GIL for as long as the test run is large."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.guarantee(1)
@pytest.mark.anyio
async def test_large_bytes_cross_both_ways_beside_a_free_loop(
    new_pool: Callable[..., Pool],
) -> None:
    """64 MiB cross while other tasks of the loop go on."""
    async with new_pool(max_workers=1) as pool:
        data = os.urandom(1) * 64 * 2**20
        with anyio.fail_after(PATIENCE):
            assert await pool.run(functions.length, data) == len(data)
            assert await pool.run(functions.echo, data) == data


@pytest.mark.guarantee(1)
@pytest.mark.anyio
async def test_many_small_objects_cross_both_ways_beside_a_free_loop(
    new_pool: Callable[..., Pool],
) -> None:
    """The loop stays free while what takes long to pickle crosses, too."""
    rows = [
        {"id": number, "name": f"row {number}", "value": number / 7} for number in range(30_000)
    ]
    async with new_pool(max_workers=1) as pool:
        back = await pool.run(functions.echo, rows)
    assert back == rows


@pytest.mark.anyio
async def test_many_buffers_cross_at_once(
    new_pool: Callable[..., Pool], no_collection: None
) -> None:
    """Arrays by the thousand: their layout alone is larger than a frame."""
    arrays = [np.full(600, index, float) for index in range(5000)]
    async with new_pool(max_workers=1) as pool:
        with anyio.fail_after(PATIENCE):
            back = await pool.run(functions.echo, arrays)
        assert all(map(np.array_equal, back, arrays))
        back[0][0] = 1  # and what was writable is so still


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_cancelled_transfers_leave_no_descriptor(new_pool: Callable[..., Pool]) -> None:
    """A call with large payloads may be cancelled at any point of its way."""
    data = os.urandom(2**22)
    async with new_pool(max_workers=2) as pool:
        await pool.run(functions.echo, data)

        async def cancelled_after(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await pool.run(functions.echo, data)

        with anyio.fail_after(PATIENCE):
            for step in range(10):
                async with anyio.create_task_group() as group:
                    for index in range(16):
                        group.start_soon(cancelled_after, 0.001 * (step + index))
        await until(lambda: not pool.statistics().leaving)
        assert await pool.run(functions.echo, data) == data
        # Once more, for replies that were under way.
        await until(lambda: not open_files())


@pytest.mark.anyio
@one_loop
async def test_cancelled_before_its_result_is_read_leaves_no_descriptor(
    new_pool: Callable[..., Pool],
) -> None:
    """A large result that has arrived and that nobody waits for any more is freed unread."""
    let = threading.Event()
    async with new_pool(max_workers=1) as pool, anyio.create_task_group() as group:
        for _ in range(4):  # all threads that read large results
            group.start_soon(threads.run, let.wait, PATIENCE)
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as reading:
            reading.start_soon(pool.run, functions.zeros, 2**20)
            await until(lambda: pool.statistics().completed == 1)
            reading.cancel_scope.cancel()
        let.set()
        await until(lambda: not open_files())


def test_this_process_is_no_worker() -> None:
    """Outside a worker there is no task."""
    assert not in_worker()
    assert task_context() is None

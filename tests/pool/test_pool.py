"""A pool: its options, its opening, its account of itself, and its event loops."""

import asyncio
import contextlib
import dataclasses
import enum
import gc
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import update_wrapper
from pathlib import Path
from typing import Any

import anyio
import pytest

from offload import Pool, in_worker, offload, task_context
from tests.support import inside
from tests.support.busy_machine import lines_about_the_test
from tests.support.calls import Held
from tests.support.functions import hostile as hostile_functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, Fifo, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


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
        ({"show_arguments": 1}, TypeError),
        ({"start_timeout": float("nan")}, ValueError),
        ({"os_priority": "high"}, ValueError),
        ({"start_method": "fork"}, ValueError),
        ({"max_tasks_per_worker": 0}, ValueError),
        ({"max_worker_memory_bytes": 1.0}, TypeError),
        ({"preload": "json"}, TypeError),
        ({"env": {"NAME": 1}}, TypeError),
        ({"env": {"A=B": "1"}}, ValueError),
        ({"env": {"NAME": "a\0b"}}, ValueError),
        ({"harden": "yes"}, TypeError),
        ({"harden": True, "executor": ThreadPoolExecutor}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"initializer": pool_functions.initialize, "initargs": "one"}, TypeError),
        ({"initializer": pool_functions.initialize, "initargs": (threading.Lock(),)}, TypeError),
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
    assert await pool.run(pool_functions.echo, 1) == 1
    assert pool.statistics().state == "open"
    await pool.aclose()


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
    await pool.run(pool_functions.echo, 1)
    with contextlib.suppress(ZeroDivisionError):
        await pool.run(pool_functions.divide, 1, 0)
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
        assert await other.run(pool_functions.pid) != pid
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
            return [await pool.run(pool_functions.echo, first + index) for index in range(150)]

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
        running = loop.create_task(pool.run(pool_functions.hold, entered.path, gate.path))
        queued = loop.create_task(pool.run(pool_functions.knock, entered.path))
        loop.run_until_complete(entered.heard())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for task in (running, queued):
            inside.destroy_quietly(task)

    async with new_pool(max_workers=1) as pool:
        await anyio.to_thread.run_sync(forget_calls)
        gc.collect()
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.echo, 1) == 1


def test_this_process_is_no_worker() -> None:
    """Outside a worker there is no task."""
    assert not in_worker()
    assert task_context() is None


@pytest.mark.anyio
@one_loop
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


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_open_ends_where_only_some_workers_come_up(tmp_path: Path) -> None:
    """A pool that has one of two workers works; it does not keep a server from starting."""
    path = str(tmp_path / "first")
    pool = Pool(
        "hostile few",
        min_workers=2,
        max_workers=2,
        initializer=hostile_functions.only_the_first,
        initargs=(path,),
    )
    with anyio.fail_after(PATIENCE):
        await pool.open()
        assert await pool.run(pool_functions.echo, 1) == 1
    await pool.aclose()
    inside.forget(pool)


@pytest.mark.anyio
@one_loop
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


@pytest.mark.anyio
@one_loop
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
    assert (done.returncode, lines_about_the_test(done.stderr)) == (0, "")


@pytest.mark.anyio
@one_loop
async def test_limit_of_a_function_holds_whoever_called_it_first() -> None:
    """`Pool.run` knows no `max_concurrency`; a decorated function does, also if it comes later."""
    async with Pool("hostile limit", max_workers=2) as pool:
        limited = offload(pool=pool, max_concurrency=1)(pool_functions.echo)
        assert await pool.run(pool_functions.echo, 1) == 1
        assert await limited(2) == 2
        (account,) = pool.statistics().functions
    assert account.max_concurrency == 1

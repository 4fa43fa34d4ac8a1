"""What one task may take: memory, CPU time, and room for its error."""

import contextlib
import gc
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import numpy as np
import pytest

from offload import FunctionError, Pool, RemoteError, TaskCpuError, TaskMemoryError, offload
from tests.support import inside
from tests.support.functions import limited as functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, gone, until

pytestmark = [pytest.mark.anyio, pytest.mark.guarantee(3)]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
MIB = 1 << 20


@pytest.fixture(scope="module", params=["forkserver", "spawn"])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """One pool for all: what one task reaches, the next one does not."""
    pool = Pool(f"limits {request.param}", start_method=request.param, max_workers=1)
    anyio.run(pool.open)
    yield pool
    anyio.run(partial(pool.aclose, drain=1.0))
    inside.forget(pool)


@linux
async def test_memory_of_a_task_is_limited(pool: Pool) -> None:
    """Its caller is told which limit it reached; the next task has what it may."""
    limited = offload(pool=pool, max_memory_bytes=50 * MIB)(functions.take_memory)
    with anyio.fail_after(PATIENCE):
        assert await limited(10 * MIB) == 10 * MIB
        with pytest.raises(TaskMemoryError, match=r"its max_memory_bytes \(52,428,800\)") as caught:
            await limited(200 * MIB)
        assert (caught.value.max_memory_bytes, caught.value.may_have_run) == (50 * MIB, True)
        assert "in take_memory" in str(caught.value.__cause__)
        assert await pool.run(functions.take_memory, 100 * MIB) == 100 * MIB
        with pytest.raises(TaskMemoryError):
            await limited.options(max_memory_bytes=20 * MIB)(30 * MIB)


@linux
@ASYNCIO
async def test_memory_limit_is_that_of_the_whole_task(pool: Pool) -> None:
    """What a result or an item takes counts; what the function makes of the end is its own."""
    with anyio.fail_after(PATIENCE):
        objects = offload(pool=pool, max_memory_bytes=10 * MIB)(functions.return_objects)
        assert len(await objects(1000)) == 1000
        with pytest.raises(TaskMemoryError):
            await objects(300_000)
        stream = offload(pool=pool, max_memory_bytes=50 * MIB)(functions.yield_memory)
        items = stream.stream(200 * MIB)
        assert await anext(items) == 1
        with pytest.raises(TaskMemoryError):
            await anext(items)
        catching = offload(pool=pool, max_memory_bytes=50 * MIB)(functions.take_memory_and_catch)
        assert await catching(200 * MIB) == "caught"


@linux
async def test_cpu_time_of_a_task_is_limited(pool: Pool) -> None:
    """A task that computes for too long is stopped, whatever it does, and its caller told why."""
    with anyio.fail_after(PATIENCE):
        pid = await pool.run(pool_functions.pid)
        with pytest.raises(TaskCpuError, match="CPU time than its max_cpu_seconds of 1") as caught:
            await offload(pool=pool, max_cpu_seconds=1)(functions.take_cpu)(60.0)
        assert (caught.value.max_cpu_seconds, caught.value.may_have_run) == (1, True)
        await gone(pid)
        assert await pool.run(pool_functions.pid) != pid


@linux
@ASYNCIO
async def test_limits_end_with_their_task(pool: Pool) -> None:
    """A worker has the limits of its process again when the task is over, however that went."""
    before = await pool.run(functions.limits_of_process)
    limited = offload(pool=pool, max_memory_bytes=100 * MIB, max_cpu_seconds=5)
    during = await limited(functions.limits_of_process)()
    assert during[0] != before[0]
    assert during[1] != before[1]
    assert await pool.run(functions.limits_of_process) == before
    with pytest.raises(ValueError, match="no"):
        await limited(functions.fail_with)(1)
    assert await pool.run(functions.limits_of_process) == before


@ASYNCIO
@pytest.mark.parametrize("option", ["max_memory_bytes", "max_cpu_seconds"])
async def test_limits_are_refused_where_nobody_keeps_them(option: str) -> None:
    """A slot of an executor is no process of ours: the call says so, and does not run."""
    async with Pool(f"limits {option}", executor=ThreadPoolExecutor) as pool:
        options = {option: 10**9}
        with pytest.raises(FunctionError, match="did not run: max_memory_bytes and"):
            await inside.call(pool, pool_functions.echo, 1, **options)
    inside.forget(pool)


@linux
@ASYNCIO
async def test_kernel_ends_a_worker_before_the_server(pool: Pool) -> None:
    """When memory runs out, a worker is the first that is asked to give some back."""
    assert await pool.run(functions.oom_score) == 1000


async def test_error_obeys_the_limit_of_payloads(pool: Pool) -> None:
    """An exception that is larger than a result may be comes as its text, cut."""
    limited = offload(pool=pool, max_payload_bytes=100_000)(functions.fail_at_length)
    with pytest.raises(ValueError, match=r"^A{1000}$"):
        await limited(1000)
    with pytest.raises(RemoteError, match="raised ValueError: AAA") as caught:
        await limited(5_000_000)
    assert len(str(caught.value)) < 100_000
    assert len(str(caught.value.__cause__)) < 100_000
    with pytest.raises(ValueError, match="AAA"):
        await pool.run(functions.fail_at_length, 5_000_000)


async def test_error_keeps_nothing_alive(pool: Pool) -> None:
    """What a failed call was given is freed with its error, and waits for no collector."""
    calls = {
        "by hand": partial(pool.run, functions.fail_with),
        "decorated": offload(pool=pool)(functions.fail_with),
        "retried": partial(inside.call, pool, functions.fail_with, max_crash_retries=1),
    }
    kept = []
    gc.collect()
    gc.disable()
    try:
        for name, call in calls.items():
            argument = np.ones(200_000)
            known = weakref.ref(argument)
            with contextlib.suppress(ValueError):
                await call(argument)
            del argument
            with anyio.move_on_after(5) as scope:  # for the keeper's thread to let go, under trio
                await until(lambda known=known: known() is None)
            if scope.cancelled_caught:
                kept.append(name)
    finally:
        gc.enable()
    assert kept == []

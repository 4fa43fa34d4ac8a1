"""Large payloads on their way, both ways: the loop is free, and each file is closed."""

import gc
import os
import threading
from collections.abc import Callable, Iterator

import anyio
import numpy as np
import pytest

from offload import ArgumentError, Pool
from offload._wire.memory_file import anonymous_file
from offload._wire.shared_file import SharedFile
from offload._workers.keeper import threads
from tests.support.calls import open_files
from tests.support.functions import pool as pool_functions
from tests.support.functions import seams as seam_functions
from tests.support.inside import call
from tests.support.processes import PATIENCE, until

# What happens in a worker is the same whatever loop waits for it.
one_loop = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without the garbage collector, which holds the GIL for as long as the test run is large."""
    gc.disable()
    yield
    gc.enable()


MIB = 1 << 20


@pytest.mark.guarantee(1)
@pytest.mark.anyio
async def test_large_bytes_cross_both_ways_beside_a_free_loop(
    new_pool: Callable[..., Pool],
) -> None:
    """64 MiB cross while other tasks of the loop go on."""
    async with new_pool(max_workers=1) as pool:
        data = os.urandom(1) * 64 * 2**20
        with anyio.fail_after(PATIENCE):
            assert await pool.run(pool_functions.length, data) == len(data)
            assert await pool.run(pool_functions.echo, data) == data


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
        back = await pool.run(pool_functions.echo, rows)
    assert back == rows


@pytest.mark.anyio
async def test_many_buffers_cross_at_once(
    new_pool: Callable[..., Pool], no_collection: None
) -> None:
    """Arrays by the thousand: their layout alone is larger than a frame."""
    arrays = [np.full(600, index, float) for index in range(5000)]
    async with new_pool(max_workers=1) as pool:
        with anyio.fail_after(PATIENCE):
            back = await pool.run(pool_functions.echo, arrays)
        assert all(map(np.array_equal, back, arrays))
        back[0][0] = 1  # and what was writable is so still


@pytest.mark.guarantee(7)
@pytest.mark.anyio
async def test_cancelled_transfers_leave_no_descriptor(new_pool: Callable[..., Pool]) -> None:
    """A call with large payloads may be cancelled at any point of its way."""
    data = os.urandom(2**22)
    async with new_pool(max_workers=2) as pool:
        await pool.run(pool_functions.echo, data)

        async def cancelled_after(seconds: float) -> None:
            with anyio.move_on_after(seconds):
                await pool.run(pool_functions.echo, data)

        with anyio.fail_after(PATIENCE):
            for step in range(10):
                async with anyio.create_task_group() as group:
                    for index in range(16):
                        group.start_soon(cancelled_after, 0.001 * (step + index))
        await until(lambda: not pool.statistics().leaving)
        assert await pool.run(pool_functions.echo, data) == data
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
            reading.start_soon(pool.run, pool_functions.zeros, 2**20)
            await until(lambda: pool.statistics().completed == 1)
            reading.cancel_scope.cancel()
        let.set()
        await until(lambda: not open_files())


@pytest.mark.anyio
@one_loop
@pytest.mark.guarantee(5)
async def test_argument_that_is_too_large_is_named_beside_a_file(one_worker: Pool) -> None:
    """A file crosses as a descriptor: it does not count, and is not to blame."""
    with SharedFile(anonymous_file(), 0) as file, pytest.raises(ArgumentError) as caught:
        await call(one_worker, seam_functions.take_all, file, bytes(3 * MIB), max_payload_bytes=MIB)
    assert "argument '*1' takes" in str(caught.value)
    assert "more than max_payload_bytes" in str(caught.value)

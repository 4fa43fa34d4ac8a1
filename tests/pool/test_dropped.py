"""Calls and streams whose coroutine is dropped or closed: they end, and leave no file."""

import asyncio
import sys
import time
from typing import Any

import anyio
import pytest

from offload import Pool
from tests.support import inside
from tests.support.calls import open_files
from tests.support.functions import pool as pool_functions
from tests.support.processes import PATIENCE, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


@pytest.mark.guarantee(5)
async def test_call_that_the_collector_drops_waits_for_no_lock(one_worker: Pool) -> None:
    """The collector may run while this very thread decides for the pool: it only leaves word."""
    calls = [one_worker.run(time.sleep, 30.0) for _ in range(2)]  # one that runs, one that waits
    for each in calls:
        each.send(None)
    await until(lambda: one_worker.statistics().busy == 1 and one_worker.statistics().queued == 1)
    with inside.lock_held(one_worker):
        for each in calls:
            each.close()
    await until(lambda: not (one_worker.statistics().busy or one_worker.statistics().queued))
    assert await one_worker.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(5)
@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before 3.13 nothing is thrown into a generator then"
)
async def test_stream_that_the_collector_drops_waits_for_no_lock(one_worker: Pool) -> None:
    """From Python 3.13 on the collector ends one while it waits for an item."""
    stream: Any = inside.stream(one_worker, pool_functions.stream_slowly, 30.0)
    waiting = anext(stream)
    waiting.send(None)
    await until(lambda: one_worker.statistics().busy)
    with inside.lock_held(one_worker):
        waiting.close()
    with anyio.fail_after(PATIENCE):
        await until(lambda: not one_worker.statistics().busy)
        assert await one_worker.run(pool_functions.echo, 1) == 1


@pytest.mark.guarantee(3)
async def test_dropped_call_keeps_its_file_until_it_has_left(one_worker: Pool) -> None:
    """A worker that becomes free in that moment is not sent a descriptor of somebody else's."""
    first = asyncio.ensure_future(one_worker.run(time.sleep, 0.1))
    await until(lambda: one_worker.statistics().busy)
    kept: list[int] = []
    dropped = one_worker.run(pool_functions.length, b"x" * 3_000_000)
    waiting = dropped.send(None)
    while not one_worker.statistics().queued:
        # As an asyncio task would, when what it waits for has come.
        await asyncio.wait({waiting})
        waiting = dropped.send(None)
    time.sleep(0.3)  # noqa: ASYNC251 - the reply of the first one waits in the socket

    def drop() -> None:
        dropped.close()
        kept.extend(open_files())

    asyncio.get_running_loop().call_soon(drop)
    await first
    await until(lambda: not (one_worker.statistics().busy or one_worker.statistics().queued))
    assert len(kept) == 1
    await until(lambda: not open_files())
    assert await one_worker.run(pool_functions.echo, 1) == 1
    assert one_worker.statistics().crashed == 0


@pytest.mark.guarantee(7)
async def test_coroutine_that_is_closed_while_it_is_pickled_leaves_no_file() -> None:
    """What a thread has made of its arguments is closed when it is made."""
    async with Pool("hostile pickling", max_workers=1) as pool:
        await pool.run(pool_functions.echo, 1)
        for _ in range(5):
            calling = pool.run(pool_functions.length, bytearray(8_000_000))
            calling.send(None)
            calling.close()
        await until(lambda: not open_files())

"""A worker that is fed call after call looks for the next one for a moment before it sleeps."""

import os
import time

import anyio
import psutil
import pytest

from offload import Pool, offload
from tests.support import inside
from tests.support.functions import pool as functions

pytestmark = [pytest.mark.anyio]


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: it is the worker that looks."""
    return "asyncio"


def switches(pid: int) -> int:
    """Return how often a process has gone to sleep."""
    return psutil.Process(pid).num_ctx_switches().voluntary


async def test_worker_that_nobody_calls_sleeps() -> None:
    """Looking ends by itself: an idle worker takes no CPU, whatever came before."""
    pool = Pool("streak", max_workers=1, spare_workers=0, os_priority="normal")
    async with pool:
        pid = offload(pool=pool)(functions.pid)
        worker = await pid()
        for _ in range(200):
            assert await pid() == worker
        await anyio.sleep(0.05)  # looking takes 100 microseconds
        process = psutil.Process(worker)
        begin = sum(process.cpu_times()[:2])
        await anyio.sleep(0.3)
        assert sum(process.cpu_times()[:2]) - begin < 0.1
        assert await pid() == worker
    inside.forget("streak")


async def test_worker_that_is_called_now_and_then_does_not_look() -> None:
    """Between calls that come slowly a worker sleeps each time, and burns nothing."""
    pool = Pool("now and then", max_workers=1, spare_workers=0, os_priority="normal")
    async with pool:
        pid = offload(pool=pool)(functions.pid)
        worker = await pid()
        before = switches(worker)
        for _ in range(20):
            await anyio.sleep(0.005)
            assert await pid() == worker
        # Now and then a busy machine lets the next call come before it sleeps.
        assert switches(worker) - before >= 10
    inside.forget("now and then")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs a core for each of the two")
async def test_worker_that_is_fed_sleeps_less_than_once_a_call() -> None:
    """In a streak most calls find the worker awake."""
    pool = Pool("fed", max_workers=1, spare_workers=0, os_priority="normal")
    async with pool:
        pid = offload(pool=pool)(functions.pid)
        worker = await pid()
        # On a machine that is busy with other things the streak breaks now and then: the best of
        # several tries, for as long as it takes.
        end = time.monotonic() + 30.0
        shares: list[float] = []
        while time.monotonic() < end:
            before = switches(worker)
            for _ in range(200):
                assert await pid() == worker
            shares.append((switches(worker) - before) / 200)
            if shares[-1] < 0.5:
                break
        assert min(shares) < 0.5
    inside.forget("fed")

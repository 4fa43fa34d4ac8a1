"""`Pool.map` and its width: it fills the queue, and is not refused by its own calls."""

import asyncio

import anyio
import pytest

from offload import Pool, QueueFullError, offload
from offload._pool.fanout import Width
from tests.support.functions import seams as seam_functions
from tests.support.processes import PATIENCE, Fifo

pytestmark = pytest.mark.anyio


MIB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: what is tested here is the same on each."""
    return "asyncio"


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("limits", [{"max_queued": 0}, {"max_queued_bytes": 3 * MIB}], ids=str)
async def test_map_is_not_refused_by_its_own_calls(limits: dict[str, int]) -> None:
    """A queue that is too short for all at once makes it narrower, and fails nothing."""
    async with Pool("seam fan-out", max_workers=2, **limits) as pool:  # type: ignore[arg-type]
        sizes = offload(pool=pool)(seam_functions.size)
        items = [bytes(2 * MIB)] * 12
        with anyio.fail_after(PATIENCE):
            assert await sizes.map(items, max_concurrency=8) == [2 * MIB] * 12
            assert await sizes.map(items) == [2 * MIB] * 12

            def mapped() -> list[int]:
                return list(pool.executor().map(seam_functions.size, items))

            assert await anyio.to_thread.run_sync(mapped) == [2 * MIB] * 12


@pytest.mark.guarantee(6)
async def test_map_is_refused_where_others_fill_the_queue(entered: Fifo) -> None:
    """There is nothing of its own to wait for."""
    async with Pool("seam full", max_workers=1, spare_workers=0, max_queued=0) as pool:
        running = asyncio.ensure_future(pool.run(seam_functions.hang, entered.path))
        await entered.heard()
        sizes = offload(pool=pool)(seam_functions.size)
        with pytest.raises(QueueFullError):
            await sizes.map([b"", b"", b""])
        with pytest.raises(QueueFullError):
            await anyio.to_thread.run_sync(
                lambda: list(pool.executor().map(seam_functions.size, [b"", b""]))
            )
        running.cancel()


@pytest.mark.guarantee(6)
def test_width_of_a_fan_out_comes_back() -> None:
    """After a short overload all workers are soon busy again."""
    width = Width(10)
    for under_way in range(9, 0, -1):
        width.refused(under_way)
    assert width.now == 1
    ended = 0
    while width.now < 10:
        width.ended()
        ended += 1
    assert ended < 200
    assert not width.ended()

"""What tests do with pools, and what they look at."""

import contextlib
from pathlib import Path

import anyio

from offload import Pool
from offload._wire.page import PAGE_BYTES
from tests.support.functions import crossing as crossing_functions


async def warm_up(pool: Pool) -> None:
    """Have every worker up, and the functions imported."""
    async with anyio.create_task_group() as group:
        for _ in range(pool.max_workers * 3):
            group.start_soon(pool.run, crossing_functions.spin, 0.01)


def open_files() -> list[int]:
    """Return the sizes of the payloads that this process has open: not the pages of workers."""
    sizes = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:offload " in str(fd.readlink()):
                sizes.append(fd.stat().st_size)
    return [size for size in sizes if size > PAGE_BYTES]

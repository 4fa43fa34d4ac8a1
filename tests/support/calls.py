"""What tests do with pools, and what they look at."""

import contextlib
from pathlib import Path
from typing import Any

import anyio

from offload import OffloadError, Pool, offload
from offload._wire.page import PAGE_BYTES
from tests.support.functions import crossing as crossing_functions
from tests.support.functions import pool as pool_functions
from tests.support.processes import Fifo


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


class Held:
    """Calls that are held at a gate, and what came of them."""

    def __init__(self, pool: Pool, entered: Fifo, gate: Fifo, group: Any) -> None:
        self.pool, self.entered, self.gate, self.group = pool, entered, gate, group
        self.results: list[Any] = []

    async def start(self, count: int = 1, **options: Any) -> list[int]:
        """Hold so many more workers; return their process ids."""
        function = offload(pool=self.pool, **options)(pool_functions.hold)

        async def call() -> None:
            try:
                self.results.append(await function(self.entered.path, self.gate.path))
            except OffloadError as error:
                self.results.append(error)

        for _ in range(count):
            self.group.start_soon(call)
        return [await self.entered.heard() for _ in range(count)]

"""Jobs of `offload`; the store is `OFFLOAD_JOBS`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from benchmarks.queues import marks
from offload import offload
from offload.jobs import Jobs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from offload.jobs import Job

jobs = Jobs()


@offload(jobs=jobs)
def mark(number: int, loops: int) -> None:
    """See `marks.mark`."""
    marks.mark(number, loops)


class Producer:
    """See `benchmarks.queues.producer.Producer`."""

    has_results = True

    async def enqueue(self, number: int, loops: int) -> Job[None]:
        """Enqueue one."""
        return await mark.enqueue(number, loops)

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many."""
        await jobs.enqueue_many(mark, [(number, loops) for number in numbers])

    async def result(self, job: Job[None]) -> None:
        """Wait for its result."""
        await job.result()


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Producer]:
    """Give the producer."""
    async with jobs:
        yield Producer()

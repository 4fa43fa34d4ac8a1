"""Jobs of taskiq on Redis' streams, which keep a task until it is acknowledged."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.queues import marks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_STORE = os.environ["BENCHMARK_STORE"]
broker = RedisStreamBroker(_STORE).with_result_backend(RedisAsyncResultBackend(_STORE))


@broker.task
async def mark(number: int, loops: int) -> None:
    """See `marks.mark`."""
    marks.mark(number, loops)


class Producer:
    """See `benchmarks.queues.producer.Producer`."""

    has_results = True

    async def enqueue(self, number: int, loops: int) -> Any:
        """Enqueue one."""
        return await mark.kiq(number, loops)

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many: one by one, as it has nothing else."""
        for number in numbers:
            await mark.kiq(number, loops)

    async def result(self, job: Any) -> None:
        """Wait for its result: it asks again and again."""
        await job.wait_result(check_interval=0.001, timeout=60)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Producer]:
    """Give the producer."""
    await broker.startup()
    yield Producer()
    await broker.shutdown()

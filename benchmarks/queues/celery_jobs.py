"""Jobs of Celery on Redis, settings as they are: it acknowledges a task before it runs it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from celery import Celery

from benchmarks.queues import marks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_STORE = os.environ["BENCHMARK_STORE"]
app = Celery("benchmark", broker=_STORE, backend=_STORE)
app.conf.broker_connection_retry_on_startup = True


@app.task
def mark(number: int, loops: int) -> None:
    """See `marks.mark`."""
    marks.mark(number, loops)


class Producer:
    """See `benchmarks.queues.producer.Producer`; it blocks, as Celery does."""

    has_results = True

    async def enqueue(self, number: int, loops: int) -> Any:
        """Enqueue one."""
        return mark.delay(number, loops)

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many, over one connection."""
        with app.producer_pool.acquire(block=True) as producer:
            for number in numbers:
                mark.apply_async((number, loops), producer=producer)

    async def result(self, job: Any) -> None:
        """Wait for its result."""
        job.get(timeout=60)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Producer]:
    """Give the producer."""
    yield Producer()
    app.close()

"""Jobs of pgqueuer on Postgres, by asyncpg. It keeps no results.

python -m benchmarks.queues.pgqueuer_jobs IN_FLIGHT
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries

from benchmarks.queues import marks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_STORE = os.environ["BENCHMARK_STORE"]


def _words(number: int, loops: int) -> bytes:
    return json.dumps([number, loops]).encode()


class Producer:
    """See `benchmarks.queues.producer.Producer`."""

    has_results = False

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def enqueue(self, number: int, loops: int) -> Any:
        """Enqueue one."""
        return await self._queries.enqueue("mark", _words(number, loops))

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many in one statement."""
        words = [_words(number, loops) for number in numbers]
        await self._queries.enqueue(["mark"] * len(words), words, [0] * len(words))

    async def result(self, job: Any) -> None:
        """There is none."""
        raise NotImplementedError


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Producer]:
    """Give the producer; its tables are made if they are not there."""
    connection = await asyncpg.connect(_STORE)
    queries = Queries(AsyncpgDriver(connection))
    if not await queries.schema_is_installed():
        await queries.install()
    yield Producer(queries)
    await connection.close()


async def work(in_flight: int) -> None:
    """Run jobs, so many at once."""
    connection = await asyncpg.connect(_STORE)
    queuer = PgQueuer(AsyncpgDriver(connection))

    @queuer.entrypoint("mark")
    async def mark(job: Job) -> None:
        assert job.payload is not None  # noqa: S101 - `_words`
        marks.mark(*json.loads(job.payload))

    # Twice as many may run as it takes at once: its own condition.
    await queuer.run(batch_size=in_flight, max_concurrent_tasks=2 * in_flight)


if __name__ == "__main__":
    asyncio.run(work(int(sys.argv[1])))

"""Jobs of procrastinate on Postgres. It keeps no results."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from procrastinate import App, PsycopgConnector

from benchmarks.queues import marks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

app = App(connector=PsycopgConnector(conninfo=os.environ["BENCHMARK_STORE"]))


@app.task(name="mark")
async def mark(number: int, loops: int) -> None:
    """See `marks.mark`."""
    marks.mark(number, loops)


class Producer:
    """See `benchmarks.queues.producer.Producer`."""

    has_results = False

    async def enqueue(self, number: int, loops: int) -> Any:
        """Enqueue one."""
        return await mark.defer_async(number=number, loops=loops)

    async def enqueue_many(self, numbers: Sequence[int], loops: int) -> None:
        """Enqueue many in one statement."""
        await mark.batch_defer_async(*({"number": each, "loops": loops} for each in numbers))

    async def result(self, job: Any) -> None:
        """There is none."""
        raise NotImplementedError


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[Producer]:
    """Give the producer; its tables are made if they are not there."""
    async with app.open_async():
        found = await app.connector.execute_query_one_async(
            "SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS is_there"
        )
        if not found["is_there"]:
            await app.schema_manager.apply_schema_async()
        yield Producer()

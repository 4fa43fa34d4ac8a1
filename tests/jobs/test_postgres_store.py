"""Postgres: what statements cost, as the server itself counts it."""

import psycopg
import pytest

from tests.jobs.values import new_job

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("place", ["postgres"], indirect=True)]

READ = (
    "SELECT seq_tup_read FROM pg_stat_xact_user_tables "
    "WHERE schemaname = 'bullmq' AND relname = 'job'"
)


@pytest.fixture
def anyio_backend():
    """Run on asyncio: the test has a connection of its own, which knows nothing else."""
    return "asyncio"


async def test_new_job_costs_the_same_however_many_there_are(place, engine):
    """Whether an id is known already is looked up by an index, not among all jobs."""
    for start in range(0, 2000, 500):
        await engine.put([new_job(f"job-{number}") for number in range(start, start + 500)])
    async with await psycopg.AsyncConnection.connect(
        place.url, options="-c search_path=bullmq", autocommit=True
    ) as connection:
        # As autovacuum does it: the tables of queues stay too small for it.
        await connection.execute("ANALYZE job, offload_job")
        async with connection.transaction():
            await connection.execute("SELECT offload_find('nobody', '7')")
            row = await (await connection.execute(READ)).fetchone()
    assert row is not None
    # The planner may read a few rows of small tables, never all of them.
    assert row[0] < 100

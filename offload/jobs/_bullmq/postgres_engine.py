"""Jobs in Postgres: a preview."""

from __future__ import annotations

from offload.jobs._bullmq.engine import BullmqEngine
from offload.jobs._bullmq.pg_client import PostgresClient
from offload.jobs._bullmq.pg_events import PostgresHub
from offload.jobs._bullmq.pg_location import parse_postgres_url
from offload.jobs._bullmq.pg_store import PostgresStore

__all__ = ["PostgresEngine"]


class PostgresEngine(BullmqEngine):
    """Jobs in Postgres, 13 or later, as BullMQ has them.

    A preview. It passes the conformance suite, but:

    - programs of BullMQ's on Node have not been tried on the same database;
    - a rate limit of a queue, which BullMQ's programs may set, is not kept to;
    - `finish` ends the attempt and claims in two round trips;
    - `counts`, and `find` by state or function, read all jobs;
    - a result, progress or arguments with the character U+0000 are `null` to BullMQ's programs;
    - a server that is stopped, or cut off, has been tried less than Redis.

    Args:
        url: see `offload.jobs._bullmq.pg_location.parse_postgres_url`.

    Raises:
        ValueError: the URL is wrong.
    """

    def __init__(self, url: str) -> None:
        client = PostgresClient(parse_postgres_url(url))
        super().__init__(client, PostgresStore(client), PostgresHub(client))

"""Listening on Postgres: one connection with LISTEN, and BullMQ's table of events.

BullMQ leaves out notifications while many commit at a time, so the table is also looked at now
and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import psycopg

from offload.jobs._bullmq.hub import Hub
from offload.jobs._bullmq.listener import MISSED, event_of
from offload.jobs._bullmq.names import from_bullmq
from offload.jobs._bullmq.pg_client import hang_up, hanging_up
from offload.jobs._errors import JobsUnavailableError

if TYPE_CHECKING:
    from offload.jobs._bullmq.pg_client import Connection, PostgresClient

__all__ = ["PostgresHub"]

_LOOK_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 0.5
# A connection on which nothing was heard for so long may be dead without a word.
_ASK_SECONDS: Final = 5.0
# Numbers are given before commits: a smaller one may appear after a larger one.
_BEHIND: Final = 500
_IN_STATEMENT: Final = psycopg.pq.TransactionStatus.ACTIVE


class PostgresHub(Hub):
    """Those who listen and those who wait for jobs, told by notifications and the event table.

    Args:
        client: for its server.
    """

    def __init__(self, client: PostgresClient) -> None:
        super().__init__()
        self._client = client
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._last = 0
        self._heard_at = 0.0
        # What is read from, as long as `_reading` goes on.
        self._connection: Connection | None = None
        self._starting = asyncio.Lock()

    def _stop(self, reading: asyncio.Task[None]) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.info.transaction_status is _IN_STATEMENT:
            # Cancelled in a statement, psycopg asks the server to end it, and waits for seconds.
            hang_up(connection)
        else:
            reading.cancel()

    def hears_of(self, queues: frozenset[str]) -> bool:  # noqa: ARG002 - all are told of
        """Return whether it listens."""
        return self._reading is not None

    async def _start(self, queues: frozenset[str]) -> None:  # noqa: ARG002 - as above
        async with self._starting:
            if self._reading is None:
                connection = await self._connect()
                self._reading = asyncio.create_task(self._read(connection))

    async def _connect(self) -> Connection:
        connection = self._connection = await self._client.new_connection()
        try:
            with hanging_up(connection, self._client.location.timeout):
                await connection.execute("LISTEN bullmq_jobs")
                await connection.execute("LISTEN bullmq_events")
                self._last = 0
                for number, *_ in await self._events(connection):
                    self._see(number)
            # Meanwhile the engine may have been closed, and nobody would end what reads.
            self._client.check_open()
        except (psycopg.Error, TimeoutError) as error:
            connection.pgconn.finish()
            self._client.refused(error, is_read=True)
        except BaseException:
            connection.pgconn.finish()
            raise
        return connection

    def _see(self, number: int) -> None:
        self._seen[number] = None
        self._last = max(self._last, number)
        while len(self._seen) > 2 * _BEHIND:
            self._seen.popitem(last=False)

    async def _events(self, connection: Connection) -> list[tuple[Any, ...]]:
        if self._last:
            cursor = await connection.execute(
                "SELECT id, queue, event, data FROM event WHERE id > %s ORDER BY id LIMIT 2000",
                (self._last - _BEHIND,),
            )
        else:
            cursor = await connection.execute(
                "SELECT * FROM (SELECT id, queue, event, data FROM event ORDER BY id DESC "
                "LIMIT %s) latest ORDER BY id",
                (_BEHIND,),
            )
        return await cursor.fetchall()

    async def _read(self, first: Connection) -> None:
        connection = first
        this = asyncio.current_task()
        try:
            while this not in self._ending:
                try:
                    await self._read_on(connection)
                except (psycopg.Error, TimeoutError):
                    connection.pgconn.finish()
                    if this in self._ending:
                        return
                    self._ring_all()
                    await asyncio.sleep(_RETRY_SECONDS)
                    with contextlib.suppress(JobsUnavailableError):
                        connection = await self._connect()
                        self._tell_all(MISSED)
        finally:
            connection.pgconn.finish()

    async def _read_on(self, connection: Connection) -> None:
        async for notice in connection.notifies(timeout=_LOOK_SECONDS, stop_after=1):
            self._heard_at = time.monotonic()
            if notice.channel == "bullmq_jobs":
                self._ring(from_bullmq(notice.payload))
        if not self._listeners:
            if time.monotonic() - self._heard_at >= _ASK_SECONDS:
                with hanging_up(connection, self._client.location.timeout):
                    await connection.execute("SELECT 1")
                self._heard_at = time.monotonic()
            return
        with hanging_up(connection, self._client.location.timeout):
            events = await self._events(connection)
        for number, bullmq_queue, kind, data in events:
            if number in self._seen:
                continue
            self._see(number)
            event = event_of(kind, data, from_bullmq(bullmq_queue))
            if event is not None:
                self._tell_all(event)

"""A Postgres server that may go and come back: a few connections, and errors in our own words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final, LiteralString, NoReturn

import psycopg

from offload.jobs._bullmq.pg_schema import migrate
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

    from offload.jobs._bullmq.pg_location import PostgresLocation

__all__ = ["PostgresClient"]

# A server takes a hundred, and each program of ours as many as it has statements at a time.
_MAX_CONNECTIONS: Final = 8
# Two transactions that wait for each other: one of them is undone, and tries again.
_COLLISIONS: Final = ("40P01", "40001", "23505")
_ATTEMPTS: Final = 3

Connection = psycopg.AsyncConnection[Any]


class PostgresClient:
    """Connections, made when they are needed and made anew.

    Args:
        location: of the server.
    """

    def __init__(self, location: PostgresLocation) -> None:
        self.location: Final = location
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._places = asyncio.Semaphore(_MAX_CONNECTIONS)
        self._is_open = False

    @property
    def is_open(self) -> bool:
        """Whether it is between `open` and `close`."""
        return self._is_open

    async def open(self) -> None:
        """Connect, and create or migrate the tables."""
        self._is_open = True
        try:
            connection = await self.new_connection()
            try:
                with hanging_up(connection, 10 * self.location.timeout):
                    await migrate(connection, self.location.schema)
            except (psycopg.Error, TimeoutError) as error:
                self.refused(error, is_read=False)
            finally:
                await connection.close()
        except BaseException:
            self._is_open = False
            raise

    def close(self) -> None:
        """Disconnect. Whoever waits for an answer gets an error."""
        self._is_open = False
        self._drop_idle()

    def _drop_idle(self) -> None:
        for connection in self._idle:
            connection.pgconn.finish()
        self._idle.clear()

    async def health(self) -> Health:
        """Ask the server how it does."""
        begin = time.perf_counter()
        await self.run("SELECT 1", (), is_read=True)
        round_trip = time.perf_counter() - begin
        ((version, synchronous, fsync, is_standby, now),) = await self.run(
            "SELECT current_setting('server_version'), current_setting('synchronous_commit'), "
            "current_setting('fsync'), pg_is_in_recovery(), "
            "extract(epoch FROM clock_timestamp())::float8",
            (),
            is_read=True,
        )
        ahead = now - time.time()
        problems: list[str] = []
        if synchronous == "off":
            problems.append("its synchronous_commit is off: a crash forgets the latest jobs")
        if fsync == "off":
            problems.append("its fsync is off: a crash may destroy the database")
        if is_standby:
            problems.append("it is a standby, where nothing can be stored: name the primary")
        return Health(
            "postgres",
            version,
            self.location.url,
            round_trip,
            tuple(problems),
            {"preview": "jobs on Postgres"},
            ahead,
        )

    async def run(
        self,
        statement: LiteralString,
        arguments: Sequence[Any] | Mapping[str, Any],
        *,
        undo: Callable[[Any], None] | None = None,
        is_read: bool = False,
    ) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own.

        Args:
            statement: SQL.
            arguments: for its placeholders.
            undo: called with the first value if the caller was cancelled before it came.
            is_read: whether it changes nothing.

        Raises:
            JobsUnavailableError: the server cannot be reached, or refuses.
        """
        # A statement is not cancelled half-way: what it did would be unknown.
        task = asyncio.ensure_future(self._run(statement, arguments, is_read=is_read))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: _undo(done, undo))
            raise

    async def _run(
        self,
        statement: LiteralString,
        arguments: Sequence[Any] | Mapping[str, Any],
        *,
        is_read: bool,
    ) -> list[tuple[Any, ...]]:
        async with self._places:
            for attempt in range(_ATTEMPTS):
                is_last = attempt == _ATTEMPTS - 1
                was_idle = bool(self._idle)
                connection = self._idle.pop() if self._idle else await self.new_connection()
                self._busy.add(connection)
                try:
                    with hanging_up(connection, self.location.timeout):
                        cursor = await connection.execute(statement, arguments, prepare=True)
                        rows = await cursor.fetchall()
                except (psycopg.Error, TimeoutError) as error:
                    if connection.closed:
                        # Those that rest have gone the same way, and each would cost its user
                        # another failure.
                        self._drop_idle()
                    collided = getattr(error, "sqlstate", None) in _COLLISIONS
                    # The server was restarted since: nothing was run there.
                    is_stale = was_idle and connection.closed and is_read
                    if is_last or not (collided or is_stale):
                        self.refused(error, is_read=is_read)
                else:
                    return rows
                finally:
                    self._busy.discard(connection)
                    if self._is_open and not connection.closed:
                        self._idle.append(connection)
                    else:
                        connection.pgconn.finish()
        raise AssertionError

    async def new_connection(self) -> Connection:
        """Return a connection of the caller's own."""
        self.check_open()
        try:
            async with asyncio.timeout(self.location.timeout):
                return await psycopg.AsyncConnection.connect(
                    self.location.conninfo,
                    autocommit=True,
                    options=f"-c search_path={self.location.schema}",
                    application_name="offload",
                )
        except (psycopg.Error, TimeoutError) as error:
            self.refused(error, is_read=True)

    def check_open(self) -> None:
        """Raise what it means for a user that this is closed."""
        if not self._is_open:
            url = self.location.url
            raise JobsUnavailableError(f"the engine of {url} is not open", location=url)

    def refused(self, error: Exception, *, is_read: bool) -> NoReturn:
        """Raise what an error of the server, or its silence, means for whoever has jobs there."""
        url = self.location.url
        if isinstance(error, psycopg.Error) and error.sqlstate == "OF001":
            raise error
        reason = str(error).strip() or f"no answer within {self.location.timeout:g} s"
        # With a code the server has said that it did nothing.
        is_unknown = not is_read and getattr(error, "sqlstate", None) is None
        raise JobsUnavailableError(
            f"Postgres at {url} (a preview) cannot be used: {reason}",
            location=url,
            may_have_happened=is_unknown,
        ) from error


@contextlib.contextmanager
def hanging_up(connection: Connection, seconds: float) -> Generator[None]:
    """Close a connection whose server has not answered in time.

    Not by a cancellation, as `asyncio.timeout` does: psycopg then asks the server to end the
    statement, and waits for ten seconds more.

    Raises:
        TimeoutError: it was closed for that.
    """
    is_late = False

    def give_up() -> None:
        nonlocal is_late
        is_late = True
        hang_up(connection)

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield
    except psycopg.Error as error:
        if is_late:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()


def hang_up(connection: Connection) -> None:
    """End a connection: the statement under way fails at once."""
    # Not by `finish`: an event loop reads from the descriptor, whose number would be given anew.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def _undo(done: asyncio.Future[Any], undo: Callable[[Any], None] | None) -> None:
    with contextlib.suppress(Exception, asyncio.CancelledError):
        rows = done.result()
        if undo is not None and rows:
            undo(rows[0][0])

"""One connection to a Redis server.

Commands are written as they come and answered in that order, so that any number of tasks share the
connection without waiting for each other. redis-py takes a connection out of a pool for each
command, and some 100 us of a core; this takes 20.

Nothing is ever sent twice: whoever asked is told that the answer is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Final, cast

import hiredis

if TYPE_CHECKING:
    from collections.abc import Callable

    from offload.jobs._bullmq.location import RedisLocation

__all__ = ["Lost", "RedisError", "RedisLink", "open_link"]

# How often it is looked whether answers are overdue.
_WATCH_SECONDS: Final = 0.25

# Its stub asks for a tuple of one word.
_pack: Final = cast("Callable[[tuple[Any, ...]], bytes]", hiredis.pack_command)
RedisError: Final[type[Exception]] = hiredis.ReplyError


class Lost(Exception):  # noqa: N818 - never leaves the room
    """The connection has gone.

    Attributes:
        was_sent: whether the command may have arrived.
        is_late: whether the server has not answered in time, rather than hung up.
    """

    def __init__(self, message: str, *, was_sent: bool, is_late: bool = False) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.is_late = is_late


class RedisLink(asyncio.Protocol):
    """A connection. Belongs to one event loop.

    Attributes:
        why: it was closed, or empty.

    Args:
        timeout: seconds after which a server that does not answer counts as gone.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")
        self._pending: deque[tuple[asyncio.Future[Any], float, Callable[[Any], None] | None]] = (
            deque()
        )
        self._transport: asyncio.Transport | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._outgoing: list[bytes] = []
        self.why = ""
        self._is_late = False
        self.closed = self._loop.create_future()

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._transport is not None

    def send(
        self,
        *words: str | bytes | float,
        undo: Callable[[Any], None] | None = None,
        patience: float = 0.0,
    ) -> asyncio.Future[Any]:
        """Send a command, and return its answer, or a `RedisError`, as a future.

        Args:
            words: the command.
            undo: called with the answer instead, if the future was cancelled before.
            patience: seconds that the server may take beyond the time limit: it blocks.

        Raises:
            Lost: the connection is closed; nothing was sent.
        """
        if self._transport is None:
            raise Lost(self.why or "the connection is closed", was_sent=False)
        future: asyncio.Future[Any] = self._loop.create_future()
        deadline = self._loop.time() + self._timeout + patience
        self._pending.append((future, deadline, undo))
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)
        if not self._outgoing:
            # What other tasks send in this turn of the loop goes in the same packet.
            self._loop.call_soon(self._flush)
        self._outgoing.append(_pack(words))
        return future

    def _flush(self) -> None:
        if self._transport is not None and self._outgoing:
            self._transport.writelines(self._outgoing)
        self._outgoing = []

    def close(self, why: str = "the connection was closed") -> None:
        """Close at once. Whoever waits for an answer is told."""
        self.why = self.why or why
        if self._transport is not None:
            self._transport.abort()
            self.connection_lost(None)

    def _look(self) -> None:
        self._watch = None
        if not self._pending:
            return
        if self._loop.time() >= self._pending[0][1]:
            self._is_late = True
            self.close(f"no answer within {self._timeout:g} s")
        else:
            self._watch = self._loop.call_later(_WATCH_SECONDS, self._look)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # uvloop's is no subclass.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give answers to who waits for them."""
        reader = self._reader
        reader.feed(data)
        try:
            while (answer := reader.gets()) is not False:
                self._answer(answer)
        except hiredis.ProtocolError as error:
            self.close(f"this is no Redis server: {error}")

    def _answer(self, answer: Any) -> None:
        future, _, undo = self._pending.popleft()
        if future.cancelled():
            if undo is not None and not isinstance(answer, RedisError):
                undo(answer)
        elif isinstance(answer, RedisError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._transport = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self.why = self.why or (f"the connection was lost: {exc}" if exc else "it hung up")
        pending, self._pending = self._pending, deque()
        for future, _, _ in pending:
            if not future.done():
                future.set_exception(Lost(self.why, was_sent=True, is_late=self._is_late))
        if not self.closed.done():
            self.closed.set_result(None)


async def open_link(location: RedisLocation, name: str) -> RedisLink:
    """Connect, log in and choose the database.

    Raises:
        Lost: the server cannot be reached, or does not answer in time.
        RedisError: it refuses, or is loading its data.
    """
    loop = asyncio.get_running_loop()
    link: RedisLink | None = None
    try:
        async with asyncio.timeout(location.timeout):
            _, link = await loop.create_connection(
                lambda: RedisLink(location.timeout),
                location.host,
                location.port,
                ssl=location.tls(),
            )
            await _greet(link, location, name)
    except (OSError, TimeoutError) as error:
        if link is not None:
            link.close()
        reason = str(error) or f"no answer within {location.timeout:g} s"
        raise Lost(reason, was_sent=False, is_late=True) from error
    except BaseException:
        if link is not None:
            link.close()
        raise
    return link


async def _greet(link: RedisLink, location: RedisLocation, name: str) -> None:
    if location.password:
        login = (
            (location.username, location.password) if location.username else (location.password,)
        )
        await link.send("AUTH", *login)
    if location.database:
        await link.send("SELECT", location.database)
    await link.send("PING")
    with contextlib.suppress(RedisError):
        await link.send("CLIENT", "SETNAME", name)

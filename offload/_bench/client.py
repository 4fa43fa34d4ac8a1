"""A small HTTP/1.1 client: one request at a time per connection, times taken where bytes arrive.

No library is used, because the client's own time is part of what is measured: this one takes some
50 µs of CPU for a request, an HTTP library ten times that.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Answer", "BadAnswerError", "Connection", "Target", "exchange"]

_LONGEST_HEAD_BYTES = 64 * 1024
_NO_CONTENT = 204
_NOT_MODIFIED = 304
_CONTINUES = range(100, 200)


class BadAnswerError(ConnectionError):
    """The server sent something that is no HTTP/1.1 answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: of HTTP.
        at: when its last byte was here, as `time.perf_counter()`.
        headers: with names in lower case; of a repeated one the last.
    """

    status: int
    at: float
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What is requested.

    Attributes:
        url: absolute, http or https; what follows a `#` is not sent.
        method: of HTTP.
        headers: pairs of name and value, sent as they are after `Host`.
        body: sent with its length unless it is empty.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    _parts: SplitResult = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be sent."""
        object.__setattr__(self, "_parts", urlsplit(self.url))
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise ValueError(f"{self.url!r} is no absolute http:// or https:// URL")
        for text in (self.method, self.path, *(part for pair in self.headers for part in pair)):
            if any(character in text for character in "\r\n\0"):
                raise ValueError(f"a line end in {text!r} would make two requests of one")
        if " " in self.path or not self.path.isascii():
            raise ValueError(f"{self.path!r} must be percent-encoded, a space as %20")

    @property
    def host(self) -> str:
        """The host to connect to."""
        return cast("str", self._parts.hostname)

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._parts.port or (443 if self._parts.scheme == "https" else 80)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._parts.scheme == "https"

    @property
    def path(self) -> str:
        """Path and query."""
        return (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")

    def request(self, path: str | None = None) -> bytes:
        """Return the bytes to send; `path` stands in for the target's own."""
        given = {name.lower() for name, _ in self.headers}
        lines = [f"{self.method} {self.path if path is None else path} HTTP/1.1"]
        if "host" not in given:
            lines.append(f"Host: {self._parts.netloc.rpartition('@')[2]}")
        if self.body or self.method in {"POST", "PUT", "PATCH"}:
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


class Connection(asyncio.Protocol):
    """A connection to a server, kept alive for one request after the other."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self._heard = False
        self._head = False
        self._status = 0
        self._headers: dict[str, str] = {}
        self._left: int | None = 0
        self._chunked = False

    async def open(self) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | None = None
        if self._target.tls:
            context = ssl.create_default_context()
        await loop.create_connection(
            lambda: self, self._target.host, self._target.port, ssl=context
        )

    @property
    def usable(self) -> bool:
        """Whether it can take a request."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._waiting is None
        )

    @property
    def heard(self) -> bool:
        """Whether a byte of the answer to the latest request has arrived."""
        return self._heard

    async def exchange(self, request: bytes) -> Answer:
        """Send a request, wait for the whole answer.

        Args:
            request: as `Target.request` makes it.

        Raises:
            ConnectionError: the connection broke before the answer was complete, or it is none.

        Cancellation:
            Closes the connection: the answer to come would be taken for that to the next request.
        """
        assert self._transport is not None
        assert self._waiting is None, "one request at a time"
        self._heard = self._head = self._chunked = False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """Close it at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Take what arrived; complete the answer with its last byte."""
        if self._waiting is None or self._waiting.done():
            # More than was asked for: the two ends disagree about where an answer ends.
            self.close()
            return
        self._heard = True
        self._buffer += data
        try:
            while not self._head:
                if not self._take_head():
                    return
            if self._take_body():
                self._complete()
        except ValueError as error:
            self._fail(BadAnswerError(f"the server sent no HTTP/1.1 answer: {error}"))

    def eof_received(self) -> bool:
        """An answer without a length ends here."""
        if self._waiting is not None and self._head and self._left is None:
            self._complete()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._fail(ConnectionResetError(str(exc) if exc else "the server closed the connection"))

    def _fail(self, error: ConnectionError) -> None:
        self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    def _complete(self) -> None:
        assert self._waiting is not None
        last = self._headers.get("connection", "").lower() == "close"
        if self._left is None or self._buffer or last:
            self.close()
        self._buffer.clear()
        if not self._waiting.done():
            self._waiting.set_result(Answer(self._status, time.perf_counter(), self._headers))

    def _take_head(self) -> bool:
        """Parse status line and headers if they are all here; ValueError if they are wrong."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_HEAD_BYTES:
                raise ValueError("its headers have no end")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, status, *_ = [*first.split(" ", 2), ""]
        if not version.startswith("HTTP/1."):
            raise ValueError(f"it begins with {first[:80]!r}")
        self._status = int(status)
        if self._status in _CONTINUES:
            return True  # Of no interest; the answer itself follows.
        pairs = (line.partition(":") for line in lines)
        self._headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._chunked = self._headers.get("transfer-encoding", "").lower().endswith("chunked")
        length = self._headers.get("content-length")
        if self._status in {_NO_CONTENT, _NOT_MODIFIED} or self._target.method == "HEAD":
            self._left, self._chunked = 0, False
        elif self._chunked:
            self._left = 0
        else:
            self._left = None if length is None else int(length)
        self._head = True
        return True

    def _take_body(self) -> bool:
        """Drop the body as far as it is here; return whether it is complete."""
        if self._chunked:
            return self._take_chunks()
        if self._left is None:
            self._buffer.clear()
            return False
        taken = min(self._left, len(self._buffer))
        del self._buffer[:taken]
        self._left -= taken
        return self._left == 0

    def _take_chunks(self) -> bool:
        """As `_take_body`, of a chunked body. `_left` is what is missing of the present chunk."""
        assert self._left is not None
        while True:
            taken = min(self._left, len(self._buffer))
            del self._buffer[:taken]
            self._left -= taken
            if self._left:
                return False
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return False
            size = int(self._buffer[:end].split(b";")[0], 16)
            if size:
                del self._buffer[: end + 2]
                self._left = size + 2  # The chunk's own line end belongs to it.
                continue
            # The last chunk, then perhaps trailers, then an empty line.
            last = self._buffer.find(b"\r\n\r\n")
            if last < 0:
                return False
            del self._buffer[: last + 4]
            return True


async def exchange(target: Target, *, timeout: float) -> Answer:  # noqa: ASYNC109 - covers both
    """Send one request over a connection of its own.

    Raises:
        TimeoutError: no complete answer within `timeout` seconds.
        OSError: no connection, or it broke.
    """
    connection = Connection(target)
    try:
        async with asyncio.timeout(timeout):
            await connection.open()
            return await connection.exchange(target.request())
    finally:
        connection.close()

"""The client of one request: who hears of its leaving, and loses nothing of what it says."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Literal

import anyio

from offload._child.context import asyncio_loop
from offload.errors import ClientDisconnectedError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from offload._asgi.messages import Message, Receive, Scope

__all__ = ["RequestClient"]

_logger = logging.getLogger("offload.starlette")


class RequestClient:
    """The client of one request: hears of its leaving, and loses nothing of what it says.

    One message is read ahead at most. Reading goes on when the last call has ended, until the
    message has come or the request is over: a `receive()` that is cancelled may take its message
    with it, so that the application would wait for ever.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.has_left = False
        # Whether the response has begun, and whether a call was refused after that.
        self.has_response = False
        self.has_refused = False
        self.scope = scope
        self._receive = receive
        self._thread = threading.get_ident()
        self._waits: set[_Wait] = set()
        # Read and not yet taken by the application; the disconnect is never taken away.
        self._unread: Message | None = None
        self._end: Message | None = None
        self._phase: Literal["unasked", "body", "read", "answered"] = "unasked"
        # How many of the application's own `receive()` are under way.
        self._listeners = 0
        self._reader: _Reader | None = None
        self._can_watch = True

    # --- for the application ---

    async def receive(self) -> Message:
        """Return the next message, as the server's `receive` would."""
        while (reader := self._reader) is not None and self._unread is None:
            await reader.news.wait()
        message = self._unread or self._end
        self._unread = None
        try:
            if message is None:
                message = await self._listen()
        finally:
            # Also when it was given up: calls that are pending have nobody to listen for them now.
            self._watch()
        return message

    async def _listen(self) -> Message:
        self._listeners += 1
        try:
            message = await self._receive()
        finally:
            self._listeners -= 1
        self._note(message)
        return message

    def answered(self) -> None:
        """Take note that the response is complete: what follows is no leaving."""
        self._phase = "answered"

    async def aclose(self) -> None:
        """Stop watching; the request is over."""
        self._can_watch = False
        reader = self._reader
        if reader is not None:
            reader.scope.cancel()
            with anyio.CancelScope(shield=True):
                await reader.ended.wait()

    # --- for calls ---

    def awaiting(self, function: str, *, tells_start: bool = True) -> _Wait:
        """Watch while a call is awaited inside; see `offload._pool.scope.Client`."""
        return _Wait(self, function, tells_start=tells_start)

    def add(self, wait: _Wait) -> bool:
        """Watch for a call; False: the client has left."""
        if self.has_left:
            return False
        # Contexts are inherited by threads, which may run event loops of their own.
        if threading.get_ident() == self._thread:
            self._waits.add(wait)
            self._watch()
        return True

    def discard(self, wait: _Wait) -> None:
        """Watch no more for a call."""
        self._waits.discard(wait)

    # --- inside ---

    def _watch(self) -> None:
        if self._waits and self._reader is None and self._may_read():
            self._reader = _Reader()
            self._reader.start(self._read)

    def _may_read(self) -> bool:
        if self._end is not None or self._listeners or not self._can_watch:
            return False
        match self._phase:
            case "unasked":
                # Asking for the body would tell the client to send it, which is the
                # application's to decide (RFC 9110, section 10.1.1).
                return all(name != b"expect" for name, _ in self.scope["headers"])
            case "body":
                return self._unread is None
            case "read":
                return True
            case "answered":
                return False

    async def _read(self, reader: _Reader) -> None:
        try:
            with reader.scope:
                while True:
                    message = await self._receive()
                    self._note(message)
                    if message["type"] != "http.disconnect":
                        self._unread = message
                    if not self._waits or not self._may_read():
                        break
                    reader.tell()
        except Exception:
            # Whose middleware's `receive` it is that fails, the application finds out when it asks.
            _logger.debug("cannot watch for the client's leaving", exc_info=True)
            self._can_watch = False
        finally:
            self._reader = None
            reader.end()

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._end = message
            if self._phase != "answered":
                self.has_left = True
                for wait in self._waits:
                    wait.client_left()
        elif self._phase != "answered":
            self._phase = "body" if message.get("more_body", False) else "read"


class _Reader:
    """The asyncio or trio task that reads ahead, and those who wait for what it reads."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.news = anyio.Event()
        self.ended = anyio.Event()
        # A loop only holds its tasks weakly.
        self._task: asyncio.Task[None] | None = None

    def start(self, read: Callable[[_Reader], Coroutine[Any, Any, None]]) -> None:
        """Start reading.

        Not in a task group around the application: that would cost every request, also those that
        make no calls, and wrap what the application raises into groups.
        """
        loop: Any = asyncio_loop()
        if loop is not None:
            self._task = loop.create_task(read(self))
        else:
            import trio

            trio.lowlevel.spawn_system_task(read, self)

    def tell(self) -> None:
        """Wake those who wait for a message."""
        news, self.news = self.news, anyio.Event()
        news.set()

    def end(self) -> None:
        """Wake everybody: nothing more is read."""
        self.news.set()
        self.ended.set()


class _Wait:
    """A call that is awaited, in a cancel scope of its own."""

    __slots__ = ("_client", "_function", "_has_left", "_scope", "_started")

    def __init__(self, client: RequestClient, function: str, *, tells_start: bool) -> None:
        self._client = client
        self._function = function
        # Where nobody tells, the careful answer is that it may have run.
        self._started = not tells_start
        self._has_left = False
        self._scope = anyio.CancelScope()

    def may_start(self) -> bool:
        """Return whether the call is still wanted, right before a worker is sent it; on any thread.

        Under trio the cancellation has to reach another thread: a worker that is free before it
        does must not be given what the client's error says did not run. Noted first and asked
        then, the other way round than `client_left`, so that one of the two sees the other.
        """
        tells, self._started = self._started, True
        if self._has_left:
            self._started = tells
            return False
        return True

    def client_left(self) -> None:
        """End the wait."""
        self._has_left = True
        self._scope.cancel()

    def __enter__(self) -> Self:
        if not self._client.add(self):
            # The next item of a stream, whose start nobody tells, is no work that is lost: it is
            # how a generator on a worker ends in the middle of a response.
            self._client.has_refused |= self._client.has_response and not self._started
            raise self._error(
                "was not called, since the client of its request has left; it did not run",
                started=False,
            )
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.discard(self)
        self._scope.__exit__(kind, error, traceback)
        if self._scope.cancelled_caught:
            what = "may have run in part" if self._started else "did not run"
            raise self._error(
                f"was stopped, since the client of its request has left; it {what}",
                started=self._started,
            ) from None

    def _error(self, what: str, *, started: bool) -> ClientDisconnectedError:
        message = f"{self._function} {what}"
        return ClientDisconnectedError(message, function=self._function, may_have_run=started)

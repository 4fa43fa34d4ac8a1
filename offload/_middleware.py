"""What stands around the requests of an application: clients that leave, and clients in a hurry.

Pure ASGI: neither knows Starlette, and a request that makes no call costs them next to nothing.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import anyio

from offload._child.context import asyncio_loop
from offload._pool.outcome import outcome_of
from offload._pool.scope import Guard, current_guard
from offload._values.options import check_number
from offload.errors import ClientDisconnectedError, OffloadError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
    from types import TracebackType
    from typing import Self

    # As Starlette spells them: what passes its type checks passes ours.
    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["CLIENT_CLOSED_REQUEST", "CancelOnDisconnect", "DeadlineFromHeader", "log_fields"]

# What nginx logs of a client that has left (its ngx_http_request.h); no RFC has a number for it.
CLIENT_CLOSED_REQUEST = 499

_logger = logging.getLogger("offload.starlette")

# Most of all what a background task was to do; nobody else would tell that it was not done.
_REFUSED = (
    "client has left in the middle of the response, and calls were refused that were made after "
    "that (calls with cancel_on_disconnect=False are not)"
)

# Decimal seconds and nothing else: float() also takes "inf", "1e9", "1_0" and " 1 ".
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")


class CancelOnDisconnect:
    """ASGI middleware: the offloaded calls of a request stop when its client leaves.

    A call that waits for a worker is taken out of the queue, one that runs is stopped as if it had
    been cancelled, and both raise `ClientDisconnectedError` in the handler. So does a call that is
    made after that, without running. What the handler does otherwise is not interrupted.

    For a whole application (`add_middleware`, `Middleware(CancelOnDisconnect)`) or single routes
    (`Route(..., middleware=[...])`), in front of or behind other middleware. Functions and calls
    with the option `cancel_on_disconnect=False` are left alone. So are those that are made once the
    response has been sent whole, such as those of background tasks. A client that leaves in the
    middle of a streamed response is a client that left: Starlette runs the background task even
    so, and its calls are refused, with a record at WARNING. What must be called even then has
    `.options(cancel_on_disconnect=False)`.

    The client is watched from the first call of a request on. What the server delivers meanwhile
    is passed on to the application; while one part of the body waits to be read by it and another
    is to come, or the client waits to be told to send the body (`Expect: 100-continue`), nobody
    watches. A handler that first reads the body and then calls is always watched.

    Args:
        app: the ASGI application.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; anything else than HTTP is passed through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = _Client(scope, receive)
        guard = Guard(client=client)

        async def tell(message: Message) -> None:
            client.has_response = True
            if _is_last(message):
                # Before it is sent: from then on the server reports a disconnect, and may begin
                # with the next request in this very context.
                client.answered()
                guard.end()
            await send(message)

        token = current_guard.set(guard)
        try:
            await self.app(scope, client.receive, tell)
        except Exception as error:
            if not client.has_left or not _is_departure(error):
                raise
            if client.has_refused:
                level, what = logging.WARNING, _REFUSED
            else:
                level, what = logging.INFO, "client has left"
            _logger.log(
                level,
                "%s %r: %s: %s",
                scope["method"],
                scope["path"],
                what,
                _innermost(error),
                extra=log_fields(error),
            )
            if not client.has_response:
                await send_nothing(send)
        finally:
            guard.end()
            current_guard.reset(token)
            await client.aclose()


async def send_nothing(send: Send) -> None:
    """Answer a client that has left."""
    # Nobody will read it; but middleware on the way waits for a response. Servers from version 2.4
    # of the specification on may say that there is nobody, by an OSError.
    with suppress(OSError):
        await send({"type": "http.response.start", "status": CLIENT_CLOSED_REQUEST, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_last(message: Message) -> bool:
    kind = message["type"]
    return kind == "http.response.pathsend" or (
        kind == "http.response.body" and not message.get("more_body", False)
    )


def _is_departure(error: BaseException | None) -> bool:
    """Return whether an error means that the client has left, and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        # Of several calls at once in a task group; cancelled ones are not in it.
        return all(map(_is_departure, error.exceptions))
    return isinstance(error, ClientDisconnectedError) or (
        # Starlette's: "Caught handled exception, but response already started."
        isinstance(error, RuntimeError) and _is_departure(error.__cause__)
    )


def log_fields(error: BaseException) -> dict[str, Any]:
    """Return what a log record about the end of a call carries for programs that read logs."""
    error = _innermost(error)
    has_left = isinstance(error, ClientDisconnectedError)
    fields: dict[str, Any] = {"offload_outcome": "cancelled" if has_left else outcome_of(error)}
    for name in ("function", "pool", "pid"):
        value = getattr(error, name, None)
        if value is not None:
            fields[f"offload_{name}"] = value
    return fields


def _innermost(error: BaseException) -> BaseException:
    # See `_is_departure`: of several calls at once, one of them.
    while not isinstance(error, OffloadError):
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = inner
    return error


class _Client:
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
        self._scope = scope
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
                return all(name != b"expect" for name, _ in self._scope["headers"])
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

    def __init__(self, client: _Client, function: str, *, tells_start: bool) -> None:
        self._client = client
        self._function = function
        # Where nobody tells, the careful answer is that it may have run.
        self._started = not tells_start
        self._has_left = False
        self._scope = anyio.CancelScope()

    def begin(self) -> bool:
        """Take note that a worker is given the call, if it is still wanted; on any thread.

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


class DeadlineFromHeader:
    """ASGI middleware: a request header says within how many seconds the client wants its answer.

    All offloaded calls that are made to answer the request inherit the deadline, which counts from
    the arrival of the request here: one that cannot end in time is not started, one that still runs
    is stopped, and both raise `DeadlineError` (504 by `exception_handlers`). What is called once
    the response has been sent whole, as by background tasks, has no part in it.

    The header is a decimal number such as `2` or `0.25`. Anything else is ignored, with a record at
    DEBUG: that a client cannot say how long it waits is no reason not to answer it.

    Args:
        app: the ASGI application.
        header: name of the header.
        maximum: seconds that a client can ask for at most; None: any. Clients that ask for nothing
            have no deadline.

    Raises:
        TypeError: `maximum` is not a number.
        ValueError: `maximum` is not above 0, or not finite.
    """

    def __init__(
        self, app: App, *, header: str = "x-request-timeout", maximum: float | None = None
    ) -> None:
        check_number("maximum", maximum, above=0.0)
        self.app = app
        self._header = header.lower().encode("latin-1")
        self._maximum = maximum

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; anything else than HTTP is passed through."""
        seconds = self._seconds(scope) if scope["type"] == "http" else None
        if seconds is None:
            await self.app(scope, receive, send)
            return
        guard = Guard(deadline=time.monotonic() + seconds)

        async def tell(message: Message) -> None:
            if _is_last(message):
                guard.end()
            await send(message)

        token = current_guard.set(guard)
        try:
            await self.app(scope, receive, tell)
        finally:
            guard.end()
            current_guard.reset(token)

    def _seconds(self, scope: Scope) -> float | None:
        asked = None
        for name, value in scope["headers"]:
            if name != self._header:
                continue
            if _SECONDS.fullmatch(value) is None:
                _logger.debug("%s %r is no number of seconds", self._header.decode(), value)
                continue
            # Of several, the one that helps the client most in a hurry.
            seconds = float(value)
            asked = seconds if asked is None else min(asked, seconds)
        if asked is None or self._maximum is None:
            return asked
        return min(asked, self._maximum)

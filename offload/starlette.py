"""What a Starlette or FastAPI application needs: pools bound to its life, errors turned to HTTP.

```python
app = Starlette(
    routes=...,
    lifespan=lifespan("images"),
    middleware=[Middleware(CancelOnDisconnect), Middleware(DeadlineFromHeader, maximum=60)],
    exception_handlers=exception_handlers,
)
```

Guarantees:

1. The application is ready only when its pools are, and is gone only when they are: whatever
   ends the startup or the service (an error, a cancellation, the server's end), every pool that
   was touched is closed.
2. A client is told what it may do next (503 with `Retry-After`, 504 or 500; whether the work may
   have been done) and nothing else: no traceback, no argument, no name from the code.
3. The operator is told once per error, under the logger `offload.starlette`: refusals, clients
   that left and deadlines that came at INFO, timeouts at WARNING, and what somebody must look at
   (crashes, workers that do not start, calls that can never work) at ERROR with the traceback.

A function's own exceptions are the application's business and keep their meaning: they reach the
handler that the application has for their type, as if the function had run inline.

A decorated function can be an endpoint itself: importing this module lets a `Request` cross to
the worker, as a copy that knows the question but not the server.
"""

from __future__ import annotations

import json
import logging
import math
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from offload._child.pickling import register_reducer
from offload._middleware import (
    CLIENT_CLOSED_REQUEST,
    CancelOnDisconnect,
    DeadlineFromHeader,
    log_fields,
)
from offload.errors import (
    ArgumentError,
    ClientDisconnectedError,
    DeadlineError,
    FunctionError,
    FunctionNotFoundError,
    OffloadError,
    PoolClosedError,
    PoolNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection
    from starlette.types import Lifespan, Receive, Scope, Send

    _Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

__all__ = [
    "CancelOnDisconnect",
    "DeadlineFromHeader",
    "ProblemResponse",
    "exception_handlers",
    "install",
    "lifespan",
]

AppT = TypeVar("AppT")

_logger = logging.getLogger("offload.starlette")

# Seconds a client is told to wait where the error itself has no estimate: a pool that closes is
# usually replaced by another server within a second or so, and asking again costs little.
_DEFAULT_RETRY_AFTER = 1.0
# An estimate made from a few slow calls can be absurd; no client should give up for a day on it.
_MAX_RETRY_AFTER = 3600.0

# Close codes of the IANA registry (RFC 6455, section 11.7) that mean what 503 and 500 mean.
_TRY_AGAIN_LATER = 1013
_INTERNAL_ERROR = 1011


@overload
def lifespan(
    *pools: Pool | str, drain: float = 10.0, inner: None = None
) -> Callable[[object], AbstractAsyncContextManager[None]]: ...
@overload
def lifespan(*pools: Pool | str, drain: float = 10.0, inner: Lifespan[AppT]) -> Lifespan[AppT]: ...
def lifespan(
    *pools: Pool | str, drain: float = 10.0, inner: Lifespan[Any] | None = None
) -> Lifespan[Any]:
    """Bind pools to the life of an application.

    Opens the pools one after the other, with their workers warm, before the server takes
    requests; drains them all at the same time when the server ends.

    Args:
        pools: pools, or names of pools that exist when the application starts; the pool named
            "default" if there are none.
        drain: seconds that running and queued calls are given at the end, for all pools
            together. It begins when the server ends the lifespan, which is after the last request
            has been answered (uvicorn waits for that without limit unless it is given
            `--timeout-graceful-shutdown`): what still runs then are calls of background tasks.
            Keep the sum below what the process manager waits before it kills the server.
        inner: the application's own lifespan. It runs inside: its startup can use the pools, and
            they are closed only after its shutdown. Its state, if any, is passed on.

    Returns:
        What `Starlette(lifespan=...)` and `FastAPI(lifespan=...)` take. It can be entered again
        after it has ended, as test clients do.

    Raises:
        TypeError: a pool is neither a `Pool` nor a name, as when `lifespan` itself, and not its
            result, is given to the application.
        ValueError: `drain` is negative, infinite or not a number.

    Cancellation:
        Cancelled while starting or serving, the pools are closed without a drain; cancelled while
        draining, what still runs is killed. Either way the pools are closed when it returns.
    """
    for pool in pools:
        if not isinstance(pool, Pool | str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise TypeError(
                f"lifespan() takes pools and names of pools, not {type(pool).__name__}; "
                "give the application what it returns: Starlette(lifespan=lifespan())"
            )
    if not 0 <= drain < math.inf:
        raise ValueError(f"drain must be 0 or more seconds and finite, not {drain!r}")

    @asynccontextmanager
    async def pools_bound(app: object) -> AsyncGenerator[Any]:
        touched: list[Pool] = []
        served = False
        try:
            for pool in _resolve(pools):
                # Noted before it is opened: one that fails or is cancelled halfway has workers.
                touched.append(pool)
                await pool.open()
            async with nullcontext() if inner is None else inner(app) as state:
                yield state
                # Not reached when the server is cancelled: only an orderly end is worth a drain.
                served = True
        finally:
            if served:
                await _close(touched, drain)
            else:
                with anyio.CancelScope(shield=True):
                    await _close(touched, 0.0)

    return pools_bound


def _resolve(pools: Sequence[Pool | str]) -> list[Pool]:
    # Names are looked up only now, so that an application may be declared before its pools.
    found = [Pool.named(pool) if isinstance(pool, str) else pool for pool in pools or ("default",)]
    # The same pool twice, as itself and by name, is one pool; a dict keeps the order.
    return list(dict.fromkeys(found))


async def _close(pools: Sequence[Pool], drain: float) -> None:
    async def close(pool: Pool) -> None:
        try:
            await pool.aclose(drain=drain)
        except BaseException:
            # Cancelled while draining, or by the failure of another pool: without this the
            # workers would live until the server process itself is gone.
            with anyio.CancelScope(shield=True):
                await pool.aclose(drain=0.0)
            raise

    # At the same time, so that the drain is that of the application and not one per pool.
    async with anyio.create_task_group() as group:
        for pool in pools:
            group.start_soon(close, pool)


class ProblemResponse(Response):
    """A problem as JSON (RFC 9457) that also answers HEAD requests properly.

    The `type` is "about:blank": a program goes by the status and by the members that are added.

    Args:
        status_code: HTTP status, also in the body; the `title` is its standard phrase.
        detail: what went wrong and what to do about it, for a human at the client.
        headers: more headers.
        extensions: more members of the body, any JSON.
    """

    media_type = "application/problem+json"

    def __init__(
        self,
        status_code: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **extensions: object,
    ) -> None:
        problem = {
            "type": "about:blank",
            "title": HTTPStatus(status_code).phrase,
            "status": status_code,
            "detail": detail,
            **extensions,
        }
        content = json.dumps(problem, ensure_ascii=False, allow_nan=False)
        super().__init__(content, status_code, headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; to HEAD the same headers, `Content-Length` included, without the body.

        ASGI leaves it open whether the server drops the body of a response to HEAD.
        """
        if scope.get("method") == "HEAD":
            self.body = b""
        await super().__call__(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    level: int
    # A fixed text: the error's own may quote an argument or tell how the server is made.
    detail: str


_BUSY = HTTPStatus.SERVICE_UNAVAILABLE
_LATE = HTTPStatus.GATEWAY_TIMEOUT
_BROKEN = HTTPStatus.INTERNAL_SERVER_ERROR
_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR
_NO_CALL = _Answer(_BROKEN, _ERROR, "The server cannot do what this request asks for.")

# Looked up along an error's bases: one that is added later is a 500 until it is added here.
_ANSWERS: dict[type, _Answer] = {
    QueueFullError: _Answer(
        _BUSY, _INFO, "The server is too busy to take this request. Try again later."
    ),
    QueueTimeoutError: _Answer(
        _BUSY, _INFO, "The server was too busy to begin in time. Try again later."
    ),
    PoolClosedError: _Answer(_BUSY, _INFO, "The server is shutting down. Try again later."),
    WorkerStartError: _Answer(
        _BUSY, _ERROR, "The server cannot begin at present. Try again later."
    ),
    TaskTimeoutError: _Answer(_LATE, _WARNING, "The work took longer than it may and was stopped."),
    # Not 503, though it may not have run: the limit is the caller's, and trying again with the
    # same one is no better idea than before.
    DeadlineError: _Answer(_LATE, _INFO, "The work could not be done by its deadline."),
    ClientDisconnectedError: _Answer(CLIENT_CLOSED_REQUEST, _INFO, "The client has left."),
    # Not 503: what somebody stops by hand should not come back by itself.
    TaskCancelledError: _Answer(_BROKEN, _WARNING, "The work was stopped."),
    WorkerCrashedError: _Answer(_BROKEN, _ERROR, "The work ended unexpectedly."),
    FunctionError: _NO_CALL,
    FunctionNotFoundError: _NO_CALL,
    PoolNotFoundError: _NO_CALL,
    ArgumentError: _NO_CALL,
    OffloadError: _Answer(_BROKEN, _ERROR, "The work failed."),
}
# Of all others the careful answer is given: it may have run, unless the error itself knows better.
_DID_NOT_RUN = (
    ArgumentError,
    FunctionError,
    FunctionNotFoundError,
    PoolNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    WorkerStartError,
)


def _answer_to(error: OffloadError) -> _Answer:
    return next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)


def _respond(error: OffloadError, answer: _Answer) -> ProblemResponse:
    headers: dict[str, str] = {}
    if answer.status == _BUSY:
        seconds = float(getattr(error, "retry_after", _DEFAULT_RETRY_AFTER))
        # Whole seconds by RFC 9110, section 10.2.3; "0" would invite a storm of retries.
        headers["Retry-After"] = str(math.ceil(min(max(seconds, 1.0), _MAX_RETRY_AFTER)))
    # Our own class, not an application's subclass of it: names of its code stay in the server.
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == OffloadError.__module__)
    return ProblemResponse(
        answer.status,
        answer.detail,
        headers=headers,
        error=kind.__name__,
        may_have_run=bool(getattr(error, "started", not isinstance(error, _DID_NOT_RUN))),
    )


async def _handle(connection: HTTPConnection, error: Exception) -> Response | None:
    """Log an `OffloadError` and answer it, to an HTTP client or over a WebSocket."""
    error = cast("OffloadError", error)
    answer = _answer_to(error)
    # The path is quoted, since it is the client's text and may hold line ends; the query is left
    # out, since it may hold secrets.
    _logger.log(
        answer.level,
        "%s %r: %d, %s: %s",
        connection.scope.get("method", "WEBSOCKET"),
        connection.scope["path"],
        answer.status,
        type(error).__name__,
        error,
        exc_info=error if answer.level >= logging.ERROR else None,
        extra=log_fields(error) | {"offload_status": answer.status},
    )
    if answer.status == CLIENT_CLOSED_REQUEST:
        # Nobody reads it: it only ends the request in order, for middleware and for access logs.
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    response = _respond(error, answer)
    if not isinstance(connection, WebSocket):
        return response
    if connection.application_state is WebSocketState.CONNECTING:
        if "websocket.http.response" in connection.scope.get("extensions", {}):
            return response
        # Without that extension the server turns a close before the accept into a 403.
    elif connection.application_state is not WebSocketState.CONNECTED:
        return None  # It has been closed from this side: nothing more may be sent.
    later = answer.status == _BUSY
    await connection.close(
        _TRY_AGAIN_LATER if later else _INTERNAL_ERROR,
        # At most 123 bytes (RFC 6455, section 5.5), which all the texts are.
        answer.detail,
    )
    return None


# Starlette's types know handlers of requests and of WebSockets, but not one of both, although it
# looks a handler up by the error alone and sends whatever it returns that is not None.
# FastAPI asks for a dict of exactly this type.
exception_handlers: dict[int | type[Exception], _Handler] = {
    OffloadError: cast("_Handler", _handle)
}
"""Handlers for `Starlette(exception_handlers=...)` and `FastAPI(exception_handlers=...)`.

They see what endpoints and their dependencies raise. What a middleware of the application raises
is outside of them, and once a response has started nothing can replace it: the server then breaks
the connection, so that no client takes a part for the whole, and logs the error itself.
"""


def install(app: Starlette) -> None:
    """Add the handlers to an application that exists already.

    A handler that the application has of its own for `OffloadError` is kept, and those that it
    has or gets for one of its subclasses go first.

    Args:
        app: a Starlette or FastAPI application that has not served anything yet.

    Raises:
        RuntimeError: the application has started and would ignore the handlers.
    """
    if app.middleware_stack is not None:
        raise RuntimeError("install(app) comes before the application starts: it has started")
    for kind, handler in exception_handlers.items():
        app.exception_handlers.setdefault(kind, handler)


# What a scope says about the client's question: plain data by the ASGI specification, apart from
# `path_params`, which is what the route's convertors make. The rest (the application, `state`, the
# channels to the client, what middleware adds) belongs to the server and stays there.
_CROSSING = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "app_root_path",
    "headers",
    "client",
    "server",
    "path_params",
)


def _reduce_request(request: Request) -> tuple[type[Request], tuple[dict[str, Any]]]:
    """Let a request cross to a worker, for decorated functions that are endpoints themselves.

    The copy knows method, URL, headers, cookies, path parameters and the client's address. It has
    no body: a plain function could not await it here either.
    """
    return Request, ({key: request.scope[key] for key in _CROSSING if key in request.scope},)


# Of its subclasses, which may hold anything, nothing is assumed.
register_reducer(Request, _reduce_request)

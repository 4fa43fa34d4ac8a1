"""Errors of calls as answers to clients, and as records for operators."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketState

from offload._asgi.log_fields import log_fields
from offload._asgi.messages import CLIENT_CLOSED_REQUEST
from offload.asgi import answer_to, decisive_of, errors_in
from offload.errors import OffloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.applications import Starlette
    from starlette.requests import HTTPConnection, Request
    from starlette.types import Receive, Scope, Send

    _Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]

__all__ = ["ProblemResponse", "add_exception_handlers", "exception_handlers"]

_logger = logging.getLogger("offload.starlette")

# Close codes of the IANA registry (RFC 6455, section 11.7) that mean what 503 and 500 mean.
_TRY_AGAIN_LATER = 1013
_INTERNAL_ERROR = 1011


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


async def _handle(connection: HTTPConnection, error: Exception) -> Response | None:
    """Log an error of ours, or a group, and answer it, to an HTTP client or over a WebSocket."""
    answer = answer_to(error)
    if answer is None:
        # A group that holds others, too: it goes on as if there were no handler for it. Starlette
        # looks handlers up by the type alone.
        raise error
    errors = errors_in(error)
    decisive = decisive_of(errors)
    # The path is quoted, since it is the client's text and may hold line ends; the query is left
    # out, since it may hold secrets.
    _logger.log(
        answer.level,
        "%s %r: %d, %s: %s%s",
        connection.scope.get("method", "WEBSOCKET"),
        connection.scope["path"],
        answer.status,
        type(decisive).__name__,
        decisive,
        f" (and {len(errors) - 1} more)" if len(errors) > 1 else "",
        exc_info=error if answer.level >= logging.ERROR else None,
        extra=log_fields(decisive) | {"offload_status": answer.status},
    )
    if answer.status == CLIENT_CLOSED_REQUEST:
        # Nobody reads it: it only ends the request in order, for middleware and for access logs.
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    response = ProblemResponse(
        answer.status,
        answer.detail,
        headers=answer.headers,
        error=answer.error,
        may_have_run=answer.may_have_run,
    )
    if not isinstance(connection, WebSocket):
        return response
    if connection.application_state is WebSocketState.CONNECTING:
        if "websocket.http.response" in connection.scope.get("extensions", {}):
            return response
        # Without that extension the server turns a close before the accept into a 403.
    elif connection.application_state is not WebSocketState.CONNECTED:
        return None  # It has been closed from this side: nothing more may be sent.
    later = answer.status == HTTPStatus.SERVICE_UNAVAILABLE
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
    OffloadError: cast("_Handler", _handle),
    ExceptionGroup: cast("_Handler", _handle),
}
"""Handlers for `Starlette(exception_handlers=...)` and `FastAPI(exception_handlers=...)`.

The errors of several calls in a task group come as an `ExceptionGroup`. One of errors of ours only
has one answer, see `offload.asgi.answer_to`; every other is raised on, as if it had no handler.

They see what endpoints and their dependencies raise. What a middleware of the application raises
is outside of them, and once a response has started nothing can replace it: the server then breaks
the connection, so that no client takes a part for the whole, and logs the error itself.
"""


def add_exception_handlers(app: Starlette) -> None:
    """Add the handlers to an application that exists already.

    A handler that the application has of its own for `OffloadError` or for `ExceptionGroup` is
    kept, and those that it has or gets for one of their subclasses go first.

    Args:
        app: a Starlette or FastAPI application that has not served anything yet.

    Raises:
        RuntimeError: the application has started and would ignore the handlers.
    """
    if app.middleware_stack is not None:
        raise RuntimeError(
            "call add_exception_handlers(app) before the application starts: it has started"
        )
    for kind, handler in exception_handlers.items():
        app.exception_handlers.setdefault(kind, handler)

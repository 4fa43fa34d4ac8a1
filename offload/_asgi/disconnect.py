"""Middleware for clients that leave: the calls of their requests stop.

Pure ASGI: it knows no framework, and a request that makes no call costs next to nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from offload._asgi.client import RequestClient
from offload._asgi.log_fields import innermost, log_fields
from offload._asgi.messages import is_last, send_nothing
from offload._pool.scope import CallScope, current_scope
from offload.errors import ClientDisconnectedError

if TYPE_CHECKING:
    from offload._asgi.messages import App, Message, Receive, Scope, Send

__all__ = ["CancelOnDisconnect"]

_logger = logging.getLogger("offload.starlette")

# Most of all what a background task was to do; nobody else would tell that it was not done.
_REFUSED = (
    "client disconnected during the response; later calls of this request were refused "
    "(cancel_on_disconnect=False allows them)"
)


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
        client = RequestClient(scope, receive)
        calls = CallScope(client=client)

        async def tell(message: Message) -> None:
            client.has_response = True
            if is_last(message):
                # Before it is sent: from then on the server reports a disconnect, and may begin
                # with the next request in this very context.
                client.answered()
                calls.end()
            await send(message)

        token = current_scope.set(calls)
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
                innermost(error),
                extra=log_fields(error),
            )
            if not client.has_response:
                await send_nothing(send)
        finally:
            calls.end()
            current_scope.reset(token)
            await client.aclose()


def _is_departure(error: BaseException | None) -> bool:
    """Return whether an error means that the client has left, and nothing else."""
    if isinstance(error, BaseExceptionGroup):
        # Of several calls at once in a task group; cancelled ones are not in it.
        return all(map(_is_departure, error.exceptions))
    return isinstance(error, ClientDisconnectedError) or (
        # Starlette's: "Caught handled exception, but response already started."
        isinstance(error, RuntimeError) and _is_departure(error.__cause__)
    )

"""What the middlewares share: the words of ASGI, and the answer that nobody reads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    # As Starlette spells them: what passes its type checks passes ours.
    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["CLIENT_CLOSED_REQUEST", "is_last", "send_nothing"]

# What nginx logs of a client that has left (its ngx_http_request.h); no RFC has a number for it.
CLIENT_CLOSED_REQUEST = 499


async def send_nothing(send: Send) -> None:
    """Answer a client that has left."""
    # Nobody will read it; but middleware on the way waits for a response. Servers from version 2.4
    # of the specification on may say that there is nobody, by an OSError.
    with suppress(OSError):
        await send({"type": "http.response.start", "status": CLIENT_CLOSED_REQUEST, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def is_last(message: Message) -> bool:
    """Return whether a message ends the response."""
    kind = message["type"]
    return kind == "http.response.pathsend" or (
        kind == "http.response.body" and not message.get("more_body", False)
    )

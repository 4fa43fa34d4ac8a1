"""Responses that go on until nobody needs them: a client that has left, a server that ends."""

from __future__ import annotations

import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offload._asgi.messages import Receive, Scope, Send

__all__ = ["send_stream"]

# Short beside what a drain may take; one question in it costs nothing.
_LOOK_SECONDS = 0.5


async def send_stream(
    send_parts: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send the body of a response, until it is done, the client leaves or the server ends.

    Without the last a server that is told to end would wait for the response, however long it is.

    Args:
        send_parts: sends the parts, by what it is given; not called for HEAD.
        scope: of the request, whose response has begun.
        receive: of the request.
        send: of the request.
    """

    async def send_part(body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})

    if scope["method"] != "HEAD":
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_when_left, receive, group.cancel_scope)
            group.start_soon(_cancel_when_server_ends, group.cancel_scope)
            with suppress(OSError):
                await send_parts(send_part)
            group.cancel_scope.cancel()
    # How servers from version 2.4 of the specification on say that nobody is there.
    with suppress(OSError):
        await send({"type": "http.response.body", "body": b""})


async def _cancel_when_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _cancel_when_server_ends(scope: anyio.CancelScope) -> None:
    # A server has no event for it that an application could wait for.
    while not _server_ends():  # noqa: ASYNC110 - as above
        await anyio.sleep(_LOOK_SECONDS)
    scope.cancel()


def _server_ends() -> bool:
    """Return whether uvicorn, if it is what serves, has been told to end.

    It has no other sign for applications: it says so on an object whose method handles SIGTERM.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True

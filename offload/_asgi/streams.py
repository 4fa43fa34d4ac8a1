"""What ends a response that would go on: a client that has left, a server that ends."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from offload._asgi.messages import Receive

__all__ = ["cancel_when_left", "cancel_when_server_ends", "server_ends"]

# Short beside what a drain may take; one question in it costs nothing.
_LOOK_SECONDS = 0.5


async def cancel_when_left(receive: Receive, scope: anyio.CancelScope) -> None:
    """Wait until the client of a request has left, and cancel what is done for it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def cancel_when_server_ends(scope: anyio.CancelScope) -> None:
    """Wait until the server has been told to end, and cancel what would keep it from ending."""
    # A server has no event for it that an application could wait for.
    while not server_ends():  # noqa: ASYNC110 - as above
        await anyio.sleep(_LOOK_SECONDS)
    scope.cancel()


def server_ends() -> bool:
    """Return whether uvicorn, if it is what serves, has been told to end.

    It has no other sign for applications: it says so on an object whose method handles SIGTERM.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True

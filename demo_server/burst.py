"""Many heavy pieces of work at once for one client, each told of when it ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from starlette.responses import Response

from offload.errors import OffloadError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from demo_server.work import PrimeCount

__all__ = ["Burst"]


class Burst(Response):
    """One line of JSON for each piece of work as it ends, in the order of their ends.

    A browser opens six connections to a host, so that a page could not show what many requests at
    once do to the server: these stand for them, each a concurrent task as a request's would be.
    When the client leaves, those that have not begun never do.

    Args:
        count: how many at once.
        work: does one of them.
    """

    media_type = "application/x-ndjson"

    def __init__(self, count: int, work: Callable[[], Awaitable[PrimeCount]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        # It is not known before the end.
        del self.headers["Content-Length"]
        self._count = count
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do the work and send the lines."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        async with anyio.create_task_group() as group:
            group.start_soon(_cancel_when_left, receive, group.cancel_scope)
            async with anyio.create_task_group() as pieces:
                for _ in range(self._count):
                    pieces.start_soon(self._one, send)
                    # As with requests, which arrive one after the other: the loop turns meanwhile.
                    await anyio.lowlevel.checkpoint()
            await send({"type": "http.response.body", "body": b""})
            group.cancel_scope.cancel()

    async def _one(self, send: Send) -> None:
        told: dict[str, object]
        try:
            done = await self._work()
        except OffloadError as error:
            told = {"error": type(error).__name__, "refused": isinstance(error, QueueFullError)}
        else:
            told = {"seconds": done.seconds, "pid": done.pid}
        line = json.dumps(told) + "\n"
        await send({"type": "http.response.body", "body": line.encode(), "more_body": True})


async def _cancel_when_left(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()

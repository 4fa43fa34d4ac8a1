"""Samples as server-sent events, for as long as somebody listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response

from offload._asgi.streams import send_stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from offload.dashboard._feed import Feed

__all__ = ["EventStream"]

# A server that ends waits for its last response, and most give an application no sign of it: a
# stream that never ended would keep it from ending. The browser asks again by itself, and is
# authorized again. Below the 30 seconds that process managers mostly wait before they kill.
_STREAM_SECONDS = 20.0
# Milliseconds after which a browser asks again.
_RETRY = b"retry: 300\n\n"


class EventStream(Response):
    """One event for each sample; who is too slow for them misses some.

    Args:
        feed: where they come from.
        headers: more headers.
    """

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, headers: Mapping[str, str]) -> None:
        super().__init__(headers={**headers, "X-Accel-Buffering": "no"})
        # It is not known before the end.
        del self.headers["Content-Length"]
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the client leaves, the server ends, or it is time to ask again."""
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await send_stream(self._send_samples, scope, receive, send)

    async def _send_samples(self, send_part: Callable[[bytes], Awaitable[None]]) -> None:
        number = 0
        end = anyio.current_time() + _STREAM_SECONDS
        head = _RETRY
        while anyio.current_time() < end:
            sample = await self._feed.after(number)
            number = sample.number
            await send_part(head + sample.event)
            head = b""

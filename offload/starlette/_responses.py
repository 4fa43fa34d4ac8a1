"""Responses that are sent as they come from a worker: piece by piece, and no faster than read.

    bytes:   worker ──► tray or memfd ──► one `bytes` object ──send(2)──► client
    stream:  worker ──► tray or memfd ──► `bytes`, one item ──send(2)──► client
                 ◄── credit ── at most 8 items ahead ◄── the server's buffer is empty

What a worker returns is copied once on its way into this process, by the kernel or in memory that
is there already, and not again: neither to pickle nor to join nor to slice it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint
from starlette.responses import Response

from offload._asgi.messages import send_nothing
from offload.errors import ClientDisconnectedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.background import BackgroundTask
    from starlette.types import Receive, Scope, Send

__all__ = ["BytesResponse", "WorkerStreamResponse"]

# A server's transport copies what the socket does not take at once: at most so much of it.
_PIECE_BYTES = 256 * 1024


class BytesResponse(Response):
    """A body that is encoded already, sent in pieces, without a copy, as the client reads it.

    Starlette's own `Response` hands the whole body to the server, which copies what the socket does
    not take at once: 64 MiB hold the event loop for tens of milliseconds. For a function that
    returns `bytes`: `BytesResponse(await report(rows), media_type="application/pdf")`.

    Args:
        content: the body; not changed until it has been sent.
        status_code: HTTP status.
        headers: more headers.
        media_type: the Content-Type.
        background: run when it has been sent.
    """

    def __init__(
        self,
        content: bytes | bytearray | memoryview,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        self._content = memoryview(content).cast("B")
        headers = {"content-length": str(self._content.nbytes), **(headers or {})}
        super().__init__(None, status_code, headers, media_type, background)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it; to HEAD without the body."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        content = self._content[:0] if scope.get("method") == "HEAD" else self._content
        sent = 0
        while True:
            piece = content[sent : sent + _PIECE_BYTES]
            sent += piece.nbytes
            is_last = sent == content.nbytes
            await send({"type": "http.response.body", "body": piece, "more_body": not is_last})
            if is_last:
                break
            # Where the client reads as fast as we send, nothing above has let the loop go round:
            # 16 MiB would hold it for some ten milliseconds.
            await checkpoint()
        if self.background is not None:
            await self.background()


class WorkerStreamResponse(Response):
    """The items of a stream as the body, from the worker straight to the client.

    An item is taken when the one before has been accepted for sending, and the worker runs a few
    items ahead of that and then waits: a slow client costs no memory. When the client leaves, the
    generator is closed and its worker is free at once.

    The first item is awaited before the response begins: an error until then (a full queue, a
    generator that raises) is answered as any other. After that it can only break the connection,
    so that no client takes a part for the whole.

    Args:
        stream: what `.stream(…)` returns, or any async iterator, of bytes-like items or `str`.
        status_code: HTTP status.
        headers: more headers.
        media_type: the Content-Type; text has `charset=utf-8` added.
        background: run when all of it has been sent, and not if the client left before that.
    """

    def __init__(
        self,
        stream: AsyncIterator[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, media_type, background)
        # Its length is not known: the server sends it in chunks.
        del self.headers["content-length"]
        self._stream = stream
        self._has_begun = False
        self._is_complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; to HEAD nothing is run, and only the headers are sent."""
        error: Exception | None = None
        is_disconnected = has_left = False
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                nonlocal is_disconnected, has_left
                # Parts of the request's body that nobody has read may come first.
                while (await receive())["type"] != "http.disconnect":
                    pass
                is_disconnected = True
                if not self._is_complete:
                    has_left = True
                    group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                await self._send(scope, send)
            except ClientDisconnectedError:
                has_left = True
            except Exception as caught:  # noqa: BLE001 - raised below, and not in a group of errors
                error = caught
            finally:
                with anyio.CancelScope(shield=True):
                    await self._close()
            group.cancel_scope.cancel()
        if error is not None and not (is_disconnected and isinstance(error, OSError)):
            raise error
        if has_left and not self._has_begun:
            await send_nothing(send)
        if self.background is not None and error is None and not has_left:
            await self.background()

    async def _send(self, scope: Scope, send: Send) -> None:
        stream = self._stream
        item: Any = None
        is_over = scope.get("method") == "HEAD"
        if not is_over:
            try:
                item = await anext(stream)
            except StopAsyncIteration:
                is_over = True
        self._has_begun = True
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        while not is_over:
            await self._send_item(item, send)
            try:
                item = await anext(stream)
            except StopAsyncIteration:
                is_over = True
        # Before it is sent: from then on servers tell of a disconnect, as ASGI has it of every
        # response that has been sent, and that is no leaving.
        self._is_complete = True
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_item(self, item: Any, send: Send) -> None:
        data = item.encode(self.charset) if isinstance(item, str) else item
        content = memoryview(data).cast("B")
        for start in range(0, content.nbytes, _PIECE_BYTES):
            piece = content[start : start + _PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await checkpoint()

    async def _close(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()

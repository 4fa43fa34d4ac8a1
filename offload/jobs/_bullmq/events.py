"""Listening: one connection that reads the event streams of queues, while anybody wants them.

The streams are BullMQ's, so what its own programs do is heard, too. They are kept for some ten
thousand entries: a listener that was cut off goes on where it was, and is told `MISSED` all the
same.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._bullmq.hub import Hub
from offload.jobs._bullmq.jobs import instant
from offload.jobs._bullmq.link import Lost, RedisError, RedisLink
from offload.jobs._bullmq.listener import MISSED, event_of
from offload.jobs._bullmq.names import from_bullmq, to_bullmq
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import EventKind

if TYPE_CHECKING:
    from offload.jobs._bullmq.client import RedisClient

__all__ = ["RedisHub"]

# How long the server holds a read back. Short, since a new stream can be read with the next one.
_BLOCK_SECONDS: Final = 2.0
_BATCH: Final = 500
_RETRY_SECONDS: Final = 0.5
# Why a connection is closed whose read does not know of new streams.
_MORE: Final = "there are more streams to read"
# Events that can mean that there is something to claim.
_WAKING: Final = frozenset({"waiting", "delayed", "resumed"})


class RedisHub(Hub):
    """Those who listen and those who wait for jobs, told by the event streams.

    Args:
        client: for its server.
    """

    def __init__(self, client: RedisClient) -> None:
        super().__init__()
        self._client = client
        self._prefix = client.location.prefix
        self._news = f"{self._prefix}-offload:news"
        self._positions: dict[str, str] = {}
        self._link: RedisLink | None = None
        self._connecting = asyncio.Lock()

    def _stop(self, reading: asyncio.Task[None]) -> None:
        self._positions.clear()
        reading.cancel()
        if self._link is not None:
            self._link.close("nobody listens")
            self._link = None

    # Reading

    def _stream(self, queue: str) -> str:
        return f"{self._prefix}:{to_bullmq(queue)}:events"

    def hears_of(self, queues: frozenset[str]) -> bool:
        """Return whether it reads the streams of these queues."""
        return self._reading is not None and all(
            self._stream(queue) in self._positions for queue in queues
        )

    async def _start(self, queues: frozenset[str]) -> None:
        if self.hears_of(queues):
            return
        wanted = [self._stream(queue) for queue in queues]
        async with self._connecting:
            if self._reading is None:
                await self._find_positions()
            missing = [stream for stream in wanted if stream not in self._positions]
            for stream in missing:
                # Nothing was put there yet: the first entry is the one to read.
                self._positions[stream] = "0-0"
            if self._reading is None:
                self._link = await self._client.new_link()
                self._reading = asyncio.create_task(self._read())
            elif missing and self._link is not None:
                # What blocks does not know of the new streams.
                self._link.close(_MORE)

    async def _find_positions(self) -> None:
        found = await self._client.run("streams", is_read=True)
        for stream, last in found:
            known = self._positions.get(stream)
            if known is None or _order(last) < _order(known):
                # Smaller than known: the server has lost its data, and counts anew.
                self._positions[stream] = last

    async def _read(self) -> None:
        while True:
            try:
                await self._read_on()
            except (Lost, RedisError, JobsUnavailableError):
                # Events are hints: whoever waits is sent to look, and what it finds is its own
                # error. This goes on until nobody listens.
                self._ring_all()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _read_on(self) -> None:
        link = self._link
        if link is None or not link.is_open:
            is_planned = link is not None and link.why == _MORE
            # Should this fail, it is no longer the planned one.
            self._link = None
            self._link = link = await self._client.new_link()
            if not is_planned:
                await self._find_positions()
                self._tell_all(MISSED)
                self._ring_all()
        streams = dict(self._positions)
        block = round(_BLOCK_SECONDS * 1000)
        try:
            answer = await link.send(
                "XREAD",
                "COUNT",
                _BATCH,
                "BLOCK",
                block,
                "STREAMS",
                *streams,
                *streams.values(),
                patience=_BLOCK_SECONDS,
            )
        except Lost:
            if link.why == _MORE:
                return
            raise
        if answer:
            self._tell(answer)

    def _tell(self, answer: Any) -> None:
        entries: list[tuple[tuple[int, int], str, list[str]]] = []
        for stream, found in answer:
            self._positions[stream] = found[-1][0]
            entries += [(_order(entry_id), stream, flat) for entry_id, flat in found]
        entries.sort(key=lambda entry: entry[0])
        for entry_id, stream, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            if stream == self._news:
                self._positions.setdefault(
                    f"{self._prefix}:{fields['queue']}:events", fields["last"]
                )
            else:
                self._tell_one(from_bullmq(stream.split(":")[-2]), fields, entry_id)

    def _tell_one(self, queue: str, fields: dict[str, str], entry_id: tuple[int, int]) -> None:
        kind = fields.get("event", "")
        if kind in _WAKING:
            self._ring(queue)
        if not self._listeners:
            return
        event = event_of(kind, fields, queue)
        if event is not None and event.kind is EventKind.COMPLETED:
            # BullMQ has it in the stream: whoever waits for it need not ask.
            event = replace(event, result=fields.get("returnvalue"), at=instant(entry_id[0]))
        if event is not None:
            self._tell_all(event)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)

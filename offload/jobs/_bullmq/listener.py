"""One who listens, and what entries of BullMQ's event streams mean to them."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._bullmq.names import from_bullmq
from offload.jobs._values import EventKind, JobEvent

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Self

__all__ = ["MISSED", "Listener", "event_of"]

_MAX_BUFFERED: Final = 10_000
_CANCELLED: Final = "cancelled"
KINDS: Final = {kind.value: kind for kind in EventKind if kind is not EventKind.MISSED}
MISSED: Final = JobEvent(EventKind.MISSED)


def event_of(kind: str, fields: Mapping[str, Any], queue: str) -> JobEvent | None:
    """Return what an entry of a stream tells of a job, if it does."""
    if kind == "failed" and fields.get("failedReason") == _CANCELLED:
        kind = EventKind.CANCELLED.value
    if kind not in KINDS or "jobId" not in fields:
        return None
    return JobEvent(KINDS[kind], from_bullmq(fields["jobId"]), queue)


class Listener:
    """An iterator of events, for one listener.

    Args:
        ids: of the jobs that it listens to; None: all.
    """

    def __init__(self, ids: Collection[str] | None) -> None:
        self._ids = None if ids is None else frozenset(ids)
        self._events: deque[JobEvent] = deque()
        self._arrived = asyncio.Event()
        self._is_closed = False

    def tell(self, event: JobEvent) -> None:
        """Give it an event."""
        if event is not MISSED:
            if self._ids is not None and event.id not in self._ids:
                return
            if len(self._events) >= _MAX_BUFFERED:
                # It does not keep up: what it has not looked at is of no use any more.
                self._events.clear()
                event = MISSED
        self._events.append(event)
        self._arrived.set()

    def close(self) -> None:
        """End the iteration after what has arrived."""
        self._is_closed = True
        self._arrived.set()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> JobEvent:
        """Wait for the next event."""
        while not self._events:
            if self._is_closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

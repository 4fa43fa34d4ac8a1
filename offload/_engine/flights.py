"""Identical calls that are under way at once share one run."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from offload._child.payload import Parcel
    from offload._workers.base import Reply

__all__ = ["Flights"]


class _Flight:
    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Reply]) -> None:
        self.task = task
        self.waiting = 0


class Flights:
    """The runs that are shared, by what was sent: function, arguments, declared context.

    Each caller gets its own copy of the result, unpickled from the one reply. The run belongs to
    nobody: it goes on until the last caller has left, and is then cancelled like any call.
    """

    def __init__(self) -> None:
        self._flights: dict[tuple[Any, bytes | Parcel], _Flight] = {}

    async def join(
        self, request: bytes | Parcel, begin: Callable[[], Coroutine[Any, Any, Reply]]
    ) -> Reply:
        """Return the reply of the run of `request`, beginning it if there is none."""
        # Of one event loop: a task of another cannot be awaited.
        loop = asyncio.get_running_loop()
        key = (loop, request)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(loop.create_task(begin()))
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.waiting += 1
        try:
            # shield: the cancellation of one caller is not that of the others.
            kind, flags, body, descriptor = await asyncio.shield(flight.task)
            return kind, flags, body, None if descriptor is None else os.dup(descriptor)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                self._end(key, flight)

    def _land(self, key: tuple[Any, bytes | Parcel], flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _end(self, key: tuple[Any, bytes | Parcel], flight: _Flight) -> None:
        task = flight.task
        if not task.done():
            # Out of the books at once: whoever comes before the run has ended needs another.
            self._land(key, flight)
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            descriptor = task.result()[3]
            if descriptor is not None:
                os.close(descriptor)

"""Those who listen and those who wait for jobs, whichever server tells of them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from offload.jobs._bullmq.listener import Listener
    from offload.jobs._values import JobEvent

__all__ = ["Hub"]

_NO_QUEUES: Final[frozenset[str]] = frozenset()
# A worker program waits for jobs again and again: a connection for each time costs the server more
# than one that rests in between.
_REST_SECONDS: Final = 2.0


class Hub(ABC):
    """Those who listen and those who wait for jobs, on one asyncio loop.

    It reads what the server tells while there is anybody, and for a moment longer.
    """

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._claimers: set[tuple[frozenset[str], asyncio.Event]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._reading: asyncio.Task[None] | None = None
        # Those that were told to stop, and have not ended yet.
        self._ending: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def _start(self, queues: frozenset[str]) -> None:
        """Read from here on what is told of all queues, and of these, unless that goes on."""

    @abstractmethod
    def _stop(self, reading: asyncio.Task[None]) -> None:
        """Have what reads end, without waiting for the server: nobody is there."""

    @abstractmethod
    def hears_of(self, queues: frozenset[str]) -> bool:
        """Return whether it reads what is told of these queues."""

    async def add_listener(self, listener: Listener) -> None:
        """Give events to `listener` from now on."""
        self._listeners.add(listener)
        try:
            await self._start(_NO_QUEUES)
        except BaseException:
            self.remove_listener(listener)
            raise

    def remove_listener(self, listener: Listener) -> None:
        """Give it no more."""
        if listener in self._listeners:  # else this was closed, and its loop may be no more
            self._listeners.remove(listener)
            self._rest()

    async def expect(self, queues: frozenset[str], ring: asyncio.Event) -> None:
        """Have `ring` set whenever there may be jobs in one of the queues."""
        self._claimers.add((queues, ring))
        try:
            await self._start(queues)
        except BaseException:
            self.forget(queues, ring)
            raise

    def forget(self, queues: frozenset[str], ring: asyncio.Event) -> None:
        """Set it no more."""
        if (queues, ring) in self._claimers:
            self._claimers.remove((queues, ring))
            self._rest()

    async def close(self) -> None:
        """End all listening, and wait until nothing reads any more."""
        for listener in self._listeners:
            listener.close()
        self._ring_all()
        self._listeners.clear()
        self._claimers.clear()
        if self._resting is not None:
            self._resting.cancel()
        self._stop_resting()
        if self._ending:
            await asyncio.wait(self._ending)

    def _rest(self) -> None:
        if self._resting is None and not self._listeners and not self._claimers:
            loop = asyncio.get_running_loop()
            self._resting = loop.call_later(_REST_SECONDS, self._stop_resting)

    def _stop_resting(self) -> None:
        self._resting = None
        if self._reading is None or self._listeners or self._claimers:
            return
        reading, self._reading = self._reading, None
        self._ending.add(reading)
        reading.add_done_callback(self._ending.discard)
        self._stop(reading)

    def _ring(self, queue: str) -> None:
        for queues, ring in self._claimers:
            if queue in queues:
                ring.set()

    def _ring_all(self) -> None:
        for _, ring in self._claimers:
            ring.set()

    def _tell_all(self, event: JobEvent) -> None:
        for listener in self._listeners:
            listener.tell(event)

"""One sample at a time for all who watch, and none when nobody does."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Feed", "Feeds", "Sample"]

# Older versions of anyio tell such variables apart by their names alone.
_numbers = count()


class Sample(NamedTuple):
    """What all who watch are sent.

    Attributes:
        number: 1 for the first.
        at: when it was taken, on the event loop's clock.
        data: JSON.
        event: the same as a server-sent event.
    """

    number: int
    at: float
    data: bytes
    event: bytes


class Feed:
    """Samples of one event loop, taken at most once per interval however many ask.

    There is no task of its own, which would have to be started and ended with an application that
    may know nothing of it: the first who waits for the next sample takes it for all. When that one
    leaves, another of those who wait takes over.

    Args:
        take: makes a sample, on a thread.
        interval: seconds between two.
    """

    def __init__(self, take: Callable[[], bytes], interval: float) -> None:
        self._take = take
        self._interval = interval
        self._latest = Sample(0, float("-inf"), b"", b"")
        self._coming: anyio.Event | None = None
        # Its own: the threads that the application shares may all be busy, with what the page is
        # there to show.
        self._limiter = anyio.CapacityLimiter(1)

    async def after(self, number: int) -> Sample:
        """Return a sample newer than the one of that number, as soon as there is one.

        Args:
            number: of the last sample that the caller has had; 0: none, any of now will do.
        """
        while not self._is_news(number):
            if self._coming is not None:
                await self._coming.wait()
            else:
                await self._lead()
        return self._latest

    def _is_news(self, number: int) -> bool:
        if number:
            return self._latest.number > number
        return anyio.current_time() - self._latest.at < self._interval

    async def _lead(self) -> None:
        coming = self._coming = anyio.Event()
        try:
            await anyio.sleep(max(self._latest.at + self._interval - anyio.current_time(), 0.0))
            data = await anyio.to_thread.run_sync(self._take, limiter=self._limiter)
            event = b"data: " + data + b"\n\n"
            self._latest = Sample(self._latest.number + 1, anyio.current_time(), data, event)
        finally:
            self._coming = None
            coming.set()


class Feeds:
    """The feed of each event loop that the application is served on, mostly one."""

    def __init__(self, make: Callable[[], Feed]) -> None:
        self._make = make
        self._feed: RunVar[Feed] = RunVar(f"offload.dashboard {next(_numbers)}")

    def here(self) -> Feed:
        """Return the feed of the running event loop."""
        feed = self._feed.get(None)
        if feed is None:
            feed = self._make()
            self._feed.set(feed)
        return feed

"""Identical calls that are under way at once share one run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from offload._pool.call import in_this_context
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from offload._values.options import Progress, ResolvedOptions
    from offload._wire.frames import Frame
    from offload._wire.payload import Parcel

__all__ = ["Flights"]

_logger = logging.getLogger("offload.pool")


class _Flight:
    __slots__ = ("listeners", "task", "waiting")

    def __init__(self) -> None:
        self.task: asyncio.Task[Frame] | None = None
        self.waiting = 0
        self.listeners: list[Progress] = []

    def tell(self, done: float, total: float | None) -> None:
        """Tell all callers that want to know how far the run is."""
        for listener in tuple(self.listeners):
            try:
                listener(done, total)
            except Exception:  # noqa: BLE001 - it is logged
                # Of one caller: the others are told all the same.
                log_safely(
                    _logger, logging.ERROR, "on_progress of a shared run failed", exc_info=True
                )


class Flights:
    """The runs that are shared, by what was sent: function, arguments, declared context.

    Each caller gets its own copy of the result, unpickled from the one reply. The run belongs to
    nobody: it goes on until the last caller has left, and is then cancelled like any call.
    """

    def __init__(self) -> None:
        self._flights: dict[tuple[Any, bytes | Parcel], _Flight] = {}

    async def join(
        self,
        request: bytes | Parcel,
        options: ResolvedOptions,
        begin: Callable[[ResolvedOptions], Coroutine[Any, Any, Frame]],
    ) -> Frame:
        """Return the reply of the run of `request`, beginning it if there is none.

        Args:
            request: the pickled call.
            options: how this caller wants it treated; what the run has is the first caller's, but
                for `on_progress`, which each of them has.
            begin: makes the run.
        """
        # Of one event loop: a task of another cannot be awaited.
        loop = asyncio.get_running_loop()
        key = (loop, request)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            # Told of progress even if the first caller does not want it: a later one may.
            task = loop.create_task(begin(options._replace(on_progress=flight.tell)))
            flight.task = task
            task.add_done_callback(lambda _: self._land(key, flight))
        assert flight.task is not None
        flight.waiting += 1
        listener: Progress | None = None
        if options.on_progress is not None:
            listener = in_this_context(options.on_progress)
            flight.listeners.append(listener)
        is_dropped = False
        try:
            # shield: the cancellation of one caller is not that of the others.
            reply = await asyncio.shield(flight.task)
            return reply.copy()
        except GeneratorExit:
            is_dropped = True  # by the collector, on whichever thread
            raise
        finally:
            if not is_dropped:
                self._leave(key, flight, listener)
            else:
                with contextlib.suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(self._leave, key, flight, listener)

    def _leave(
        self, key: tuple[Any, bytes | Parcel], flight: _Flight, listener: Progress | None
    ) -> None:
        flight.waiting -= 1
        if listener is not None:
            flight.listeners.remove(listener)
        if not flight.waiting and flight.task is not None:
            self._end(key, flight, flight.task)

    def _land(self, key: tuple[Any, bytes | Parcel], flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _end(
        self, key: tuple[Any, bytes | Parcel], flight: _Flight, task: asyncio.Task[Frame]
    ) -> None:
        # Out of the books at once, also where it has ended in this very turn of the loop: whoever
        # comes now needs another, since the file of this one's result is closed.
        self._land(key, flight)
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            task.result().close()

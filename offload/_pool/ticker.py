"""Has the dispatcher tick when something is due: a failed start, an idle worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from offload._workers.keeper import keeper

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable

    from offload._decisions.dispatcher import Dispatcher

__all__ = ["Ticker"]

# Two instants this close are one: a timer may be early by the clock's resolution.
_SAME_SECONDS = 0.001


class Ticker:
    """One timer of the keeper, for the next tick of one pool.

    Args:
        dispatcher: what knows when the next tick is due.
        lock: the dispatcher's.
        tick: called when it is due, on the keeper's thread.
    """

    def __init__(
        self, dispatcher: Dispatcher, lock: threading.Lock, tick: Callable[[], None]
    ) -> None:
        self._dispatcher = dispatcher
        self._lock = lock
        self._tick = tick
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._is_stopped = False

    def schedule(self) -> None:
        """Set the timer, after an event that may have changed what is due. On any thread."""
        now = time.monotonic()
        wait = self._dispatcher.next_tick(now)
        if wait is not None and now + wait < self._due - _SAME_SECONDS:
            keeper.post(self._arm)

    def stop(self) -> None:
        """Tick no more; the keeper may be let go of at once, with a word to `_arm` on its way."""
        self._is_stopped = True
        if self._timer is not None:
            keeper.post(self._timer.cancel)

    def _arm(self) -> None:
        # Only the keeper's thread sets the time of the next tick, from what is due now: two threads
        # that did so could have the later one win, and a failed start be tried again a minute late.
        now = time.monotonic()
        with self._lock:
            wait = self._dispatcher.next_tick(now)
        if wait is None or now + wait >= self._due - _SAME_SECONDS or self._is_stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = now + wait
        self._timer = keeper.loop.call_later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._due = float("inf")
        self._tick()

"""Who waits for a pool to open or to drain, and when each of them is told."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING

from offload._decisions.words import Phase
from offload._pool.call_errors import opening_error

if TYPE_CHECKING:
    from offload._decisions.dispatcher import Dispatcher
    from offload.errors import WorkerStartError

__all__ = ["Waiters", "settle"]


def settle(future: Future[None], error: Exception | None = None) -> None:
    """Complete a future, unless whoever waited for it has cancelled it."""
    with contextlib.suppress(InvalidStateError):
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Waiters:
    """Whoever waits for the life of a pool to go on. Its methods are called under the pool's lock.

    Futures are completed without the lock, since that may call back whatever code: `take_settled`
    only takes them out.

    Attributes:
        start_error: what the last start that failed has said.
        anybody: whether somebody waits; read at the end of each task.
    """

    def __init__(self, pool: str, dispatcher: Dispatcher) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self.start_error = ""
        # Who waits for so many workers, and who for the last call to end.
        self._openers: list[tuple[int, Future[None]]] = []
        self._drainers: list[Future[None]] = []
        self.anybody = False

    def wait_open(self, future: Future[None]) -> None:
        """Complete `future` when the first workers are ready; it fails if none comes up."""
        self._openers.append((max(self._dispatcher.limits.min_workers, 1), future))
        self.anybody = True

    def wait_drained(self, future: Future[None]) -> None:
        """Complete `future` when no call is left."""
        self._drainers.append(future)
        self.anybody = True

    def take_settled(self) -> list[tuple[Future[None], WorkerStartError | None]]:
        """Return the futures that are to be completed now, each with its error if there is one."""
        settled = self._take_opened()
        if self._drainers and self._dispatcher.is_drained:
            settled += [(future, None) for future in self._drainers]
            self._drainers = []
        self.anybody = bool(self._openers or self._drainers)
        return settled

    def _take_opened(self) -> list[tuple[Future[None], WorkerStartError | None]]:
        if not self._openers:
            return []
        dispatcher = self._dispatcher
        ready = dispatcher.roster.up
        error: WorkerStartError | None = None
        if dispatcher.is_failing or dispatcher.phase is Phase.CLOSED:
            error = opening_error(self._pool, self.start_error)
        # Fewer than wanted, and the others do not come up: the pool works, and goes on trying.
        is_short = ready > 0 and dispatcher.growth.has_failed_often
        opened: list[tuple[Future[None], WorkerStartError | None]] = []
        waiting: list[tuple[int, Future[None]]] = []
        for wanted, future in self._openers:
            if ready >= wanted or is_short:
                opened.append((future, None))
            elif error is not None:
                opened.append((future, error))
            else:
                waiting.append((wanted, future))
        self._openers = waiting
        return opened

"""One transaction as operations see it, with what is to be told and counted at its end."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from offload.jobs._ended import ENDED_STEP
from offload.jobs._sqlite.schema import STATES
from offload.jobs._values import EventKind, JobEvent

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator

    from offload.jobs._sqlite.clock import Clock

__all__ = ["ANY_FUNCTION", "Transaction"]

ANY_FUNCTION = ""

_KINDS = tuple(EventKind(state.value) for state in STATES)
_CLAIMABLE = 2
_OVER = 3


class Transaction:
    """A write transaction of the writer thread.

    Attributes:
        connection: on which to execute.
        now: seconds since the epoch, at the begin.
        monotonic: of the clock of leases, at the begin.
        events: what listeners are told after the commit.
        rings: queues and functions that claimers look for again after the commit.
    """

    __slots__ = (
        "_changes",
        "_ended",
        "_position",
        "_saved_position",
        "connection",
        "events",
        "monotonic",
        "now",
        "rings",
    )

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self.connection = connection
        self.now = clock.now()
        self.monotonic = clock.monotonic()
        self.events: list[JobEvent] = []
        self.rings: set[tuple[str, str]] = set()
        self._changes: Counter[tuple[int, str, str]] = Counter()
        self._ended: Counter[tuple[int, str]] = Counter()
        self._position: int | None = None
        self._saved_position: int | None = None

    def next_position(self) -> int:
        """Return a number larger than any before, in this file."""
        last = self._position
        if last is None:
            (last,) = self.connection.execute("SELECT last FROM positions").fetchone()
            self._saved_position = last
        self._position = last + 1
        return last + 1

    def entered(self, job_id: str, queue: str, function: str, state: int) -> None:
        """Note that a job is in `state` now."""
        self._changes[state, queue, function] += 1
        self.events.append(JobEvent(_KINDS[state], job_id, queue))
        if state < _CLAIMABLE:
            self.rings.add((queue, function))
        elif state >= _OVER:
            self._ended[state, queue] += 1

    def left(self, queue: str, function: str, state: int) -> None:
        """Note that a job is no longer in `state`."""
        self._changes[state, queue, function] -= 1

    def save_claimable(self) -> None:
        """Write what was counted, if it tells of jobs to claim."""
        if any(change and key[0] < _CLAIMABLE for key, change in self._changes.items()):
            self.save_counts()

    def save_counts(self) -> None:
        """Write what was counted, so that statements can read it."""
        changes = [(*key, change) for key, change in self._changes.items() if change]
        self._changes.clear()
        if changes:
            self.connection.executemany(
                "INSERT INTO counts (state, queue, function, jobs) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs",
                changes,
            )
        if self._ended:
            at = int(self.now) // ENDED_STEP * ENDED_STEP
            self.connection.executemany(
                "INSERT INTO ended VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs",
                [(at, *key, count) for key, count in self._ended.items()],
            )
            self._ended.clear()
        if self._position != self._saved_position:
            self.connection.execute("UPDATE positions SET last = ?", (self._position,))
            self._saved_position = self._position

    @contextmanager
    def all_or_nothing(self) -> Generator[None]:
        """Undo what is done inside, and only that, if it raises."""
        self.save_counts()
        told, rings = len(self.events), self.rings.copy()
        self.connection.execute("SAVEPOINT operation")
        try:
            yield
            self.save_counts()
        except BaseException:
            # A full disk, for one, has rolled back the whole transaction already.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK TO operation")
                self.connection.execute("RELEASE operation")
            del self.events[told:]
            self.rings = rings
            self._changes.clear()
            self._ended.clear()
            self._position = self._saved_position = None
            raise
        self.connection.execute("RELEASE operation")

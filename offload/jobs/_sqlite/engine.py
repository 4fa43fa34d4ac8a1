"""The engine: methods of the seam, each of which has a thread run an operation."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

from offload.jobs._sqlite import care, health, producers, reads
from offload.jobs._sqlite import claims as operations
from offload.jobs._sqlite.bells import CLAIMS, EVENTS, Listener
from offload.jobs._sqlite.clock import SystemClock
from offload.jobs._sqlite.location import parse_url
from offload.jobs._sqlite.notes import SqliteNotes
from offload.jobs._sqlite.store import Store

if TYPE_CHECKING:
    import os
    import sqlite3
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence

    from offload.jobs._ended import Ended
    from offload.jobs._sqlite.clock import Clock
    from offload.jobs._sqlite.transaction import Transaction
    from offload.jobs._values import (
        CancelOutcome,
        Claim,
        Claimed,
        Count,
        Ending,
        Extended,
        Finished,
        Health,
        JobEvent,
        JobRecord,
        LogLine,
        NewJob,
        Page,
        Query,
        Swept,
        Wanted,
    )

__all__ = ["SqliteEngine"]


class SqliteEngine:
    """Jobs in an SQLite file. See `offload.jobs._engine.Engine` for what the methods promise.

    Args:
        url: see `offload.jobs._sqlite.location.parse_url`.
        clock: of the machine, unless a test has another one.
    """

    def __init__(
        self, url: str | os.PathLike[str] = "sqlite://", clock: Clock | None = None
    ) -> None:
        self._store: Final = Store(parse_url(str(url)), clock or SystemClock())
        self.notes: Final = SqliteNotes(self._store)

    def __repr__(self) -> str:
        """Return the location and whether it is open."""
        state = "open" if self._store.is_open else "closed"
        return f"<{type(self).__name__} {self._store.location.url} {state}>"

    @property
    def location(self) -> str:
        """Where the jobs are, as a URL without secrets."""
        return self._store.location.url

    async def open(self) -> None:
        """Create or migrate the file, and start the threads."""
        await self._store.open()

    async def aclose(self) -> None:
        """End running methods, the threads and the connections."""
        await self._store.aclose()

    async def health(self) -> Health:
        """Make an empty transaction, and look at the file and its place."""
        begin = time.perf_counter()
        await self._store.write(lambda _: None)
        round_trip = time.perf_counter() - begin
        return await self._store.read(
            partial(health.look, location=self._store.location, round_trip=round_trip)
        )

    async def put(
        self, jobs: Sequence[NewJob], *, max_queued: int | None = None
    ) -> tuple[str, ...]:
        """Insert jobs in one transaction."""
        return await self._store.write(partial(producers.put, jobs=jobs, max_queued=max_queued))

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Read records."""
        return await self._store.read(partial(reads.get, ids=ids))

    async def logs(self, job_id: str, *, start: int = 0, limit: int = 1000) -> tuple[LogLine, ...]:
        """Read log lines."""
        return await self._store.read(partial(reads.logs, job_id=job_id, start=start, limit=limit))

    async def find(self, query: Query) -> Page:
        """Read one page; the cursor is the last job's number."""
        return await self._store.read(partial(reads.find, query=query))

    async def counts(self, queues: Collection[str] | None = None) -> tuple[Count, ...]:
        """Read the counts, which are kept up to date and not counted."""
        return await self._store.read(partial(reads.counts, queues=queues))

    async def ended(self, step: int, steps: int) -> Ended:
        """Read how many ended, which is kept up to date and not counted."""
        now = self._store.clock.now()
        return await self._store.read(partial(reads.ended, step=step, steps=steps, now=now))

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel, or ask for it."""
        return await self._store.write(partial(producers.cancel, job_id=job_id))

    async def requeue(self, job_id: str) -> None:
        """Have the job wait again. A deadline that has passed is dropped."""
        await self._store.write(partial(producers.requeue, job_id=job_id))

    async def remove(self, ids: Sequence[str]) -> int:
        """Delete jobs that are over."""
        return await self._store.write(partial(producers.remove, ids=ids))

    @asynccontextmanager
    async def events(
        self, ids: Collection[str] | None = None
    ) -> AsyncGenerator[AsyncIterator[JobEvent]]:
        """Listen to this process, and by a socket to all others."""
        core = await self._store.listening(EVENTS)
        listener = Listener(ids)
        core.hub.add_listener(listener)
        try:
            yield listener
        finally:
            core.hub.remove_listener(listener)

    async def claim(self, wanted: Wanted, *, wait: float = 0.0) -> tuple[Claimed, ...]:
        """Claim at once, or at a ring, or when a delayed job is due; look every second anyway."""
        end = time.monotonic() + wait
        claimed, _ = await _claim(self._store, wanted)
        if claimed or wait <= 0:
            return claimed
        core = await self._store.listening(CLAIMS)
        while True:
            with core.hub.new_claimer(wanted) as claimer:
                # Again: a job may have come before the bell was heard.
                claimed, due = await _claim(self._store, wanted)
                left = end - time.monotonic()
                if claimed or left <= 0:
                    return claimed
                patience = min(left, core.poll_seconds())
                if due is not None:
                    patience = min(patience, max(due - self._store.clock.now(), 0.0))
                await claimer.wait(patience)

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended:
        """Extend claims."""
        run = partial(operations.extend, held=tuple(claims), lease=lease)
        return await self._store.write(run, is_synced=False)

    async def finish(self, claim: Claim, ending: Ending, *, then: Wanted | None = None) -> Finished:
        """Store an ending and claim in one transaction."""
        return await self.finish_all([(claim, ending)], then=then)

    async def finish_all(
        self, reports: Sequence[tuple[Claim, Ending]], *, then: Wanted | None = None
    ) -> Finished:
        """Store endings and claim in one transaction."""
        return await self._store.write(
            partial(operations.finish, reports=tuple(reports), then=then),
            undo=lambda finished: _hand_back(self._store, finished.claimed),
        )

    async def progress(self, claim: Claim, value: str) -> bool:
        """Store progress."""
        return await self._store.write(
            partial(operations.progress, held=claim, value=value), is_synced=False
        )

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Store log lines."""
        return await self._store.write(
            partial(operations.log, held=claim, lines=lines), is_synced=False
        )

    async def sweep(self) -> Swept:
        """Sweep a batch at a time, with pauses for others between them."""
        swept = care.NOTHING
        while True:
            found = await self._store.write(
                care.sweep, glance=partial(_glance_sweep, self._store.clock)
            )
            swept = care.joined(swept, found)
            if not care.is_full(found):
                return swept

    async def prune(self, *, max_over: int | None = None) -> int:
        """Prune a batch at a time, with pauses for others between them."""
        pruned = 0
        while True:
            count = await self._store.write(partial(care.prune, max_over=max_over))
            pruned += count
            if count < care.BATCH:
                return pruned

    async def pause(self, queue: str) -> None:
        """Pause a queue."""
        await self._store.write(partial(care.pause, queue=queue))

    async def resume(self, queue: str) -> None:
        """Resume a queue."""
        await self._store.write(partial(care.resume, queue=queue))

    async def paused(self) -> frozenset[str]:
        """Read which queues are paused."""
        return await self._store.read(reads.paused)


# What was claimed, and when the next job is due.
_Looked: TypeAlias = "tuple[tuple[Claimed, ...], float | None]"


async def _claim(store: Store, wanted: Wanted) -> _Looked:
    def glance(connection: sqlite3.Connection) -> _Looked | None:
        due, is_there = operations.glance(connection, wanted, store.clock.now())
        return None if is_there else ((), due)

    def run(transaction: Transaction) -> _Looked:
        return operations.claim(transaction, wanted), None

    # Not synced: should power fail, the jobs wait again, which is right.
    return await store.write(
        run,
        glance=glance,
        undo=lambda looked: _hand_back(store, looked[0]),
        is_synced=False,
    )


def _hand_back(store: Store, claimed: Sequence[Claimed]) -> None:
    """Release claims that nobody has received, since the caller was cancelled."""
    if claimed:
        held = [each.claim for each in claimed]
        store.write_later(partial(operations.release, held=held))


def _glance_sweep(clock: Clock, connection: sqlite3.Connection) -> Swept | None:
    needed = care.needs_sweep(connection, clock.now(), clock.monotonic())
    return None if needed else care.NOTHING

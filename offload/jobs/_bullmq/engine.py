"""The engine: methods of the seam, on asyncio, and on trio by a thread with asyncio.

Redis and Postgres differ in what is below: a client, its operations and its events.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from offload.jobs._bullmq.listener import Listener
from offload.jobs._bullmq.loops import Loops
from offload.jobs._bullmq.notes import BullmqNotes
from offload.jobs._errors import JobsUnavailableError
from offload.jobs._values import Release

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Sequence

    from offload.jobs._bullmq.sides import Client, Hub, Store
    from offload.jobs._ended import Ended
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

__all__ = ["BullmqEngine"]

_T = TypeVar("_T")

# A claimer is told of jobs. Should that fail, and where a limit on all workers together ends, it
# finds them by looking: seldom.
_LOOK_SECONDS: Final = 2.0


class BullmqEngine:
    """Jobs as BullMQ has them. See `offload.jobs._engine.Engine` for the promises.

    Args:
        client: of the server.
        store: operations on it.
        hub: who listens to it.
    """

    def __init__(self, client: Client, store: Store, hub: Hub) -> None:
        self._client: Final = client
        self._store: Final = store
        self._hub: Final = hub
        self._loops: Final = Loops(client.location.url)
        # Claims that are being handed back, since their claimer was gone when they came.
        self._handing_back: Final[set[asyncio.Task[None]]] = set()
        self.notes: Final = BullmqNotes(self._loops, store)

    def __repr__(self) -> str:
        """Return the location and whether it is open."""
        state = "open" if self._client.is_open else "closed"
        return f"<{type(self).__name__} {self._client.location.url} {state}>"

    @property
    def location(self) -> str:
        """Where the jobs are, as a URL without secrets."""
        return self._client.location.url

    async def _do(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return await self._loops.run(coroutine)

    # Life

    async def open(self) -> None:
        """Connect."""
        if not self._client.is_open:
            self._loops.hold()
            try:
                await self._do(self._client.open())
            except BaseException:
                self._loops.release()
                raise

    async def aclose(self) -> None:
        """Disconnect."""
        if self._client.is_open:
            try:
                await self._do(self._close())
            finally:
                self._loops.release()

    async def _close(self) -> None:
        if self._handing_back:
            await asyncio.wait(self._handing_back, timeout=1.0)
        self._client.close()
        await self._hub.close()
        # The transports are closed in the next turns of the loop.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def health(self) -> Health:
        """Ask the server how it does."""
        return await self._do(self._client.health())

    # Producers

    async def put(
        self, jobs: Sequence[NewJob], *, max_queued: int | None = None
    ) -> tuple[str, ...]:
        """Put jobs."""
        return await self._do(self._store.put(jobs, max_queued))

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Read jobs."""
        return await self._do(self._store.get(ids))

    async def logs(self, job_id: str, *, start: int = 0, limit: int = 1000) -> tuple[LogLine, ...]:
        """Read log lines."""
        return await self._do(self._store.logs(job_id, start, limit))

    async def find(self, query: Query) -> Page:
        """Read one page; the cursor is the last job's number."""
        return await self._do(self._store.find(query))

    async def counts(self, queues: Collection[str] | None = None) -> tuple[Count, ...]:
        """Count: looks at every job, a thousand at a time."""
        return await self._do(self._store.counts(queues))

    async def ended(self, step: int, steps: int) -> Ended:
        """Count those that ended, by BullMQ's index of when they did."""
        return await self._do(self._store.ended(step, steps))

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel, or ask for it."""
        return await self._do(self._store.cancel(job_id))

    async def requeue(self, job_id: str) -> None:
        """Have a job run again. A deadline that has passed is dropped."""
        await self._do(self._store.requeue(job_id))

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget jobs that are over."""
        return await self._do(self._store.remove(ids))

    @asynccontextmanager
    async def events(
        self, ids: Collection[str] | None = None
    ) -> AsyncGenerator[AsyncIterator[JobEvent]]:
        """Listen to the event streams."""
        listener = await self._do(self._listen(ids))
        try:
            yield self._loops.iterate(listener)
        finally:
            self._loops.post(self._hub.remove_listener, listener)

    async def _listen(self, ids: Collection[str] | None) -> Listener:
        listener = Listener(ids)
        await self._hub.add_listener(listener)
        return listener

    # Worker programs

    async def claim(self, wanted: Wanted, *, wait: float = 0.0) -> tuple[Claimed, ...]:
        """Claim at once, or when the event streams tell of jobs, or a delayed one is due."""
        return await self._loops.run(self._claim(wanted, wait), self._hand_back_claimed)

    async def _claim(self, wanted: Wanted, wait: float) -> tuple[Claimed, ...]:
        end = time.monotonic() + wait
        if wait <= 0 or not self._hub.hears_of(wanted.queues):
            claimed, _ = await self._store.claim(wanted, self._hand_back)
            if claimed or wait <= 0:
                return claimed
        ring = asyncio.Event()
        await self._hub.expect(wanted.queues, ring)
        try:
            while True:
                ring.clear()
                # Also where that was done before: a job may have come before this listened.
                claimed, soon = await self._store.claim(wanted, self._hand_back)
                left = end - time.monotonic()
                if claimed or left <= 0:
                    return claimed
                patience = min(left, _LOOK_SECONDS, _LOOK_SECONDS if soon is None else soon)
                try:
                    async with asyncio.timeout(max(patience, 0.001)):
                        await ring.wait()
                except TimeoutError:
                    continue
        finally:
            self._hub.forget(wanted.queues, ring)

    def _hand_back(self, reply: Any) -> None:
        """Release claims that nobody has received, since the caller was cancelled."""
        self._hand_back_claimed([self._store.claimed(found) for found in reply[0]])

    def _hand_back_claimed(self, claimed: Sequence[Claimed]) -> None:
        claims = [each.claim for each in claimed]
        if claims and self._client.is_open:
            task = asyncio.get_running_loop().create_task(self._release(claims))
            self._handing_back.add(task)
            task.add_done_callback(self._handing_back.discard)

    async def _release(self, claims: Sequence[Claim]) -> None:
        try:
            # The last one first: each goes before what was put back.
            reports = [(claim, Release()) for claim in reversed(claims)]
            await self._store.finish(reports, None, self._hand_back)
        except JobsUnavailableError:
            # They lapse.
            return

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended:
        """Extend claims."""
        return await self._do(self._store.extend(claims, lease))

    async def finish(self, claim: Claim, ending: Ending, *, then: Wanted | None = None) -> Finished:
        """End an attempt, and claim what is next."""
        return await self.finish_all([(claim, ending)], then=then)

    async def finish_all(
        self, reports: Sequence[tuple[Claim, Ending]], *, then: Wanted | None = None
    ) -> Finished:
        """End attempts, and claim what is next."""
        return await self._loops.run(
            self._store.finish(reports, then, self._hand_back),
            lambda finished: self._hand_back_claimed(finished.claimed),
        )

    async def progress(self, claim: Claim, value: str) -> bool:
        """Keep progress."""
        return await self._do(self._store.progress(claim, value))

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Keep log lines."""
        return await self._do(self._store.log(claim, lines))

    # Care

    async def sweep(self) -> Swept:
        """Sweep."""
        return await self._do(self._store.sweep())

    async def prune(self, *, max_over: int | None = None) -> int:
        """Prune."""
        return await self._do(self._store.prune(max_over))

    async def pause(self, queue: str) -> None:
        """Pause a queue, for workers of BullMQ's, too."""
        await self._do(self._store.pause(queue, is_paused=True))

    async def resume(self, queue: str) -> None:
        """Resume a queue."""
        await self._do(self._store.pause(queue, is_paused=False))

    async def paused(self) -> frozenset[str]:
        """Read which queues are paused."""
        return await self._do(self._store.paused())

"""The last day of a store: how many jobs there were in each state, and how many have ended.

A task on the event loop of whoever looks first asks the store every ten seconds, as rarely as
everybody who counts (`offload.jobs._counting`), until the jobs are closed.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

import anyio

from offload._child.context import asyncio_loop
from offload.dashboard._history import SPANS, Ring
from offload.dashboard._jobs_ended import EndedHistory

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from offload.jobs import Count, Jobs

__all__ = ["JobHistories", "JobHistory"]

_logger: Final = logging.getLogger("offload.dashboard")
_EVERY: Final = min(SPANS.values())
_STATES: Final = ("waiting", "delayed", "active", "failed", "completed")
# Of one store; of the others only the sum is kept.
_MOST_QUEUES: Final = 50


class JobHistory:
    """The numbers of one store: of each queue, and of all together, by state."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, Ring]] = {}
        self._due: dict[int, float] = {}
        self.ended = EndedHistory()

    def note(self, counts: Iterable[Count], now: float, at: float) -> None:
        """Put what was counted into the rings whose time has come.

        Args:
            counts: by queue, function and state.
            now: on the monotonic clock.
            at: the same as `time.time()`.
        """
        by_queue: dict[str, dict[str, float]] = {"": dict.fromkeys(_STATES, 0.0)}
        for each in counts:
            if each.state in _STATES:
                queue = by_queue.setdefault(each.queue, dict.fromkeys(_STATES, 0.0))
                queue[each.state] += each.count
                by_queue[""][each.state] += each.count
        due = [span for span in SPANS.values() if now >= self._due.get(span, now)]
        for seconds in due:
            # Half an interval early is the nearest to it that there is.
            self._due[seconds] = now + seconds - _EVERY / 2
        for name, values in by_queue.items():
            rings = self._queues.get(name)
            if rings is None:
                if len(self._queues) > _MOST_QUEUES:
                    continue
                rings = self._queues[name] = {each: Ring(_STATES) for each in SPANS.values()}
            for seconds in due:
                rings[seconds].add(at, values)

    def told(self, queue: str, span: int) -> dict[str, Any]:
        """Return the numbers of a queue ("": of all) over one of the `SPANS`."""
        rings = self._queues.get(queue)
        sizes = (ring.size_bytes for each in self._queues.values() for ring in each.values())
        return {
            "span": span,
            "seconds": SPANS[span],
            "bytes": sum(sizes) + self.ended.size_bytes,
            "queues": sorted({*self._queues, *self.ended.queues} - {""}),
            "entries": {"at": []} if rings is None else rings[SPANS[span]].told(),
            "ended": self.ended.told(queue, SPANS[span]),
        }


class JobHistories:
    """The histories of stores that somebody has looked at."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Jobs, JobHistory] = WeakKeyDictionary()
        # A loop only holds its tasks weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, jobs: Jobs) -> JobHistory:
        """Return that of a store, which is kept from now on."""
        history = self._kept.get(jobs)
        if history is None:
            history = self._kept[jobs] = JobHistory()
            self._start(jobs, history)
        return history

    def _start(self, jobs: Jobs, history: JobHistory) -> None:
        loop: Any = asyncio_loop()
        if loop is not None:
            task = loop.create_task(self._keep(jobs, history))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            import trio

            trio.lowlevel.spawn_system_task(self._keep, jobs, history)

    async def _keep(self, jobs: Jobs, history: JobHistory) -> None:
        from offload.jobs import JobsUnavailableError

        try:
            while jobs.is_open:
                # What is not known is a gap; the page itself says why.
                with suppress(JobsUnavailableError):
                    await history.ended.look(await jobs.engine())
                    await _look_at_counts(jobs, history)
                await anyio.sleep(_EVERY)
        except Exception:
            # Nobody waits for this task: whoever looks next begins anew.
            _logger.warning("the history of jobs has ended", exc_info=True)
        finally:
            self._kept.pop(jobs, None)


async def _look_at_counts(jobs: Jobs, history: JobHistory) -> None:
    from offload.jobs._counting import recent_counts

    recent = await recent_counts(jobs, max_age=_EVERY / 2)
    # Old counts are no news: a store that takes long for them is asked rarely.
    if recent.counts is not None and time.monotonic() - recent.told_at < _EVERY:
        history.note(recent.counts, time.monotonic(), time.time())

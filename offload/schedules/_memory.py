"""Fires that run in memory: on the pool, or on the event loop if their function is async.

In a fleet each fire is taken through the engine before it runs: at most one process has it. Should
that process die, the fire is lost; whoever needs more than that schedules jobs.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio

from offload._workers.logs import log_safely
from offload.errors import DeadlineError, QueueTimeoutError, TaskTimeoutError
from offload.jobs import JobsUnavailableError
from offload.schedules._errors import FireTimeoutError
from offload.schedules._events import EventKind
from offload.schedules._fires import RefusedError
from offload.schedules._records import FireReason, Overlap
from offload.schedules._store import StoredRun

if TYPE_CHECKING:
    from offload.schedules._fires import Entry, RunReporter, RunsHost, ScheduleView
    from offload.schedules._store import ScheduleStore

__all__ = ["LATE_SECONDS", "InMemory"]

_logger: Final = logging.getLogger("offload.schedules")

# A fire that is later than this asks first how far all are decided: its id may be forgotten soon.
LATE_SECONDS: Final = 3600.0
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_TIMEOUTS: Final = (FireTimeoutError, TaskTimeoutError, QueueTimeoutError, DeadlineError)
_MAX_ERROR: Final = 1000


class InMemory:
    """Runs fires here. A `RunMethod`.

    Args:
        schedule: whose fires.
        reporter: who is told.
        host: the scheduler.
        store: what the engine keeps; None: there is none.
    """

    __slots__ = ("_host", "_reporter", "_schedule", "_store")

    def __init__(
        self,
        schedule: ScheduleView,
        reporter: RunReporter,
        host: RunsHost,
        store: ScheduleStore | None,
    ) -> None:
        self._schedule: Final = schedule
        self._reporter: Final = reporter
        self._host: Final = host
        self._store: Final = store

    async def secure(self, entry: Entry) -> None:
        """Take the fire."""
        store, fire, name = self._store, entry.fire, self._schedule.name
        if store is None:
            return
        if fire.reason is FireReason.SCHEDULED:
            is_late = self._reporter.lateness(fire) > LATE_SECONDS
            if is_late and await store.is_decided(name, fire.fire_time):
                raise RefusedError(EventKind.FIRED_ELSEWHERE)
            if not await store.take(name, fire.id, self._reporter.state(fire.fire_time)):
                raise RefusedError(EventKind.FIRED_ELSEWHERE)
        if self._schedule.policy.overlap is Overlap.ALLOW:
            return
        if not await store.hold(name, fire.id):
            raise RefusedError(EventKind.SKIPPED_OVERLAP)

    def begin(self, entry: Entry) -> None:
        """Call the function."""
        self._host.start(lambda: self._run(entry))

    async def _run(self, entry: Entry) -> None:
        entry.started_at = self._host.now()
        kind = EventKind.CANCELLED
        result: Any = None
        error: BaseException | None = None
        self._reporter.note_start(entry, EventKind.STARTED)
        try:
            with entry.entered():
                try:
                    result = await self._schedule.call.run(self._reporter.context(entry.fire))
                    kind = EventKind.FINISHED
                except _TIMEOUTS as caught:
                    kind, error = EventKind.TIMED_OUT, caught
                except Exception as caught:  # noqa: BLE001 - it is told
                    kind, error = EventKind.FAILED, caught
        finally:
            if self._store is not None:
                with anyio.CancelScope(shield=True):
                    await self._let_go(self._store, entry, kind, error)
        self._reporter.end(entry, kind, result=result, error=error)

    async def _let_go(
        self, store: ScheduleStore, entry: Entry, kind: EventKind, error: BaseException | None
    ) -> None:
        """Have the engine know that it has ended."""
        fire = entry.fire
        assert entry.started_at is not None
        run = StoredRun(
            fire.id,
            fire.fire_time.isoformat(),
            fire.reason.value,
            entry.started_at.isoformat(),
            kind.value,
            self._host.now().isoformat(),
            "" if error is None else f"{type(error).__qualname__}: {error}"[:_MAX_ERROR],
        )
        # What was taken is noted already; a run by hand decides no fire time.
        until = fire.fire_time if fire.reason is FireReason.SCHEDULED else _EVER
        try:
            await store.let_go(self._schedule.name)
            await store.note(self._schedule.name, self._reporter.state(until, run))
        except JobsUnavailableError as unavailable:
            # The lease lapses, and the next run is noted.
            log_safely(
                _logger, logging.WARNING, "the end of %s was not noted: %s", fire.id, unavailable
            )

"""One fire that has not ended, and what the methods to run it need of their surroundings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from datetime import datetime

    from offload.jobs import Job
    from offload.schedules._call import ScheduledCall
    from offload.schedules._context import FireContext
    from offload.schedules._events import EventKind, ScheduleEvent
    from offload.schedules._fire_times import FireTimes
    from offload.schedules._records import Fire, FireReason, Policy
    from offload.schedules._store import StoredProgress, StoredRun

__all__ = [
    "Entry",
    "RefusedError",
    "RunMethod",
    "RunReporter",
    "RunsHost",
    "ScheduleRun",
    "ScheduleView",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRun:
    """A run that has ended, or a job that has been enqueued.

    Attributes:
        id: of the fire; of a job, its id.
        fire_time: the instant that it was scheduled for, in the schedule's zone.
        reason: why it ran.
        outcome: `FINISHED`, `FAILED`, `TIMED_OUT` or `CANCELLED`; None: it has not ended.
        started_at: when it began; of a job, when it was stored.
        ended_at: when it ended; None: it has not.
        result: what it returned, if this process ran it; of a job, the result of that.
        error: what it raised; of other processes in their words.
    """

    id: str
    fire_time: datetime
    reason: FireReason
    outcome: EventKind | None
    started_at: datetime
    ended_at: datetime | None
    result: Any = None
    error: BaseException | str | None = None


class Entry:
    """One fire that has not ended.

    Attributes:
        fire: what the agenda has decided.
        job: its job, once it is enqueued.
        started_at: when it began, or its job was enqueued; None: it has not.
        is_cancelled: whether somebody has it stopped.
        is_waiting: whether it waits for a run to end, of whatever process.
    """

    __slots__ = ("_scope", "fire", "is_cancelled", "is_waiting", "job", "started_at")

    def __init__(self, fire: Fire) -> None:
        self.fire: Final = fire
        self.job: Job[Any] | None = None
        self.started_at: datetime | None = None
        self.is_cancelled: bool = False
        self.is_waiting: bool = False
        self._scope: anyio.CancelScope | None = None

    def cancel(self) -> None:
        """Stop it."""
        self.is_cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    def entered(self) -> anyio.CancelScope:
        """Return a new scope, which `cancel` cancels."""
        scope = self._scope = anyio.CancelScope()
        if self.is_cancelled:
            scope.cancel()
        return scope


class RefusedError(Exception):
    """A fire does not run here.

    Attributes:
        kind: what becomes of it.
    """

    def __init__(self, kind: EventKind) -> None:
        super().__init__(kind.value)
        self.kind = kind


class ScheduleView(Protocol):
    """A schedule, as far as its runs need to know it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def call(self) -> ScheduledCall:
        """What it calls."""
        ...

    @property
    def fire_times(self) -> FireTimes:
        """When it fires."""
        ...

    @property
    def policy(self) -> Policy:
        """How it deals with lateness and overlap."""
        ...

    def local(self, instant: datetime) -> datetime:
        """Return an instant in its zone."""
        ...


class RunsHost(Protocol):
    """What runs need of the scheduler that is running."""

    def now(self) -> datetime:
        """Return the instant that it is, in UTC."""
        ...

    def start(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that the scheduler waits for when it ends."""
        ...

    def follow(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that ends with the scheduler."""
        ...

    def tell(self, event: ScheduleEvent) -> None:
        """Tell of an event."""
        ...

    def ended(self, schedule: str, fire: str) -> None:
        """Note that a fire has ended."""
        ...

    def executions(self, schedule: str) -> int:
        """Return how often a schedule has run."""
        ...


class RunReporter(Protocol):
    """What methods tell of a fire, and ask."""

    def lateness(self, fire: Fire) -> float:
        """Return by how many seconds it is late."""
        ...

    def context(self, fire: Fire) -> FireContext:
        """Return what its function is told."""
        ...

    def state(self, until: datetime, last: StoredRun | None = None) -> StoredProgress:
        """Return how far the schedule is."""
        ...

    def is_awaited(self, fire: Fire) -> bool:
        """Return whether somebody waits for its result."""
        ...

    def note_start(self, entry: Entry, kind: EventKind) -> None:
        """Tell that it has begun."""
        ...

    def end(
        self,
        entry: Entry,
        kind: EventKind | None,
        *,
        result: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """Tell that it has ended; None: that is not for this process to tell."""
        ...


class RunMethod(Protocol):
    """How the fires of a schedule are run."""

    async def secure(self, entry: Entry) -> None:
        """Have this fire for this process, or its job enqueued. May be tried again.

        Raises:
            RefusedError: it does not run here.
            JobsUnavailableError: the engine cannot be reached.
        """
        ...

    def begin(self, entry: Entry) -> None:
        """Run it, or follow its job; `RunReporter.end` tells the end."""
        ...

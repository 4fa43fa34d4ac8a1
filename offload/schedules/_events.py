"""What happens to schedules, told to whoever wants to know: callbacks, iterators, log records."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import anyio

from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from offload.schedules._records import FireReason, MissedReason

__all__ = ["EventKind", "Events", "ScheduleEvent", "Teller"]

_logger: Final = logging.getLogger("offload.schedules")

# What an iterator keeps for a consumer that is slow; then the oldest are dropped. Arbitrary.
_MAX_KEPT: Final = 10_000


class EventKind(StrEnum):
    """What happened."""

    STARTED = "started"
    """A run began in this process."""
    ENQUEUED = "enqueued"
    """The job of a fire was stored by this process; a worker program runs it."""
    FINISHED = "finished"
    """A run returned."""
    FAILED = "failed"
    """A run raised, crashed, or could not begin."""
    TIMED_OUT = "timed_out"
    """A run took longer than its timeout, or waited too long for a worker; it was stopped."""
    CANCELLED = "cancelled"
    """A run was stopped: by hand, for a later one, or since the scheduler ended."""
    MISSED = "missed"
    """Fire times do not run; the reason says why."""
    SKIPPED_OVERLAP = "skipped_overlap"
    """A fire does not run, because an earlier run has not ended."""
    FIRED_ELSEWHERE = "fired_elsewhere"
    """Another process has the fire."""
    ENDED = "ended"
    """The schedule will not fire again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleEvent:
    """One thing that happened to a schedule.

    Attributes:
        kind: what happened.
        schedule: name of the schedule.
        at: when, in UTC.
        fire: id of the fire; None for `MISSED` and `ENDED`.
        fire_time: the instant that it was scheduled for, in the schedule's zone; of `MISSED` the
            last of them; None for `ENDED`.
        first: of `MISSED` the first of the fire times; else None.
        reason: why it fires, of the events of a fire; else None.
        missed: of `MISSED`, why; else None.
        lateness: seconds between when a fire was due and when it began, or its job was stored.
        run_seconds: seconds from there to the end, where there was one.
        result: of `FINISHED`, what the function returned.
        error: of `FAILED` and `TIMED_OUT`.
    """

    kind: EventKind
    schedule: str
    at: datetime
    fire: str | None = None
    fire_time: datetime | None = None
    first: datetime | None = None
    reason: FireReason | None = None
    missed: MissedReason | None = None
    lateness: float | None = None
    run_seconds: float | None = None
    result: Any = None
    error: BaseException | None = None


class Teller:
    """Tells of events, in the order in which they happen."""

    __slots__ = ("_callbacks", "_iterators")

    def __init__(self) -> None:
        self._callbacks: tuple[tuple[object, Callable[[ScheduleEvent], object]], ...] = ()
        self._iterators: list[Events] = []

    def add(self, callback: Callable[[ScheduleEvent], object]) -> Callable[[], None]:
        """Call `callback` at each event; return what takes that back."""
        mark = object()
        self._callbacks = (*self._callbacks, (mark, callback))

        def undo() -> None:
            self._callbacks = tuple(each for each in self._callbacks if each[0] is not mark)

        return undo

    def events(self, schedule: str | None) -> Events:
        """Return an iterator of the events from when it is entered on."""
        return Events(self._iterators, schedule)

    def tell(self, event: ScheduleEvent) -> None:
        """Tell of an event. What a callback raises is logged, and goes no further."""
        _log(event)
        for _, callback in self._callbacks:
            try:
                callback(event)
            except Exception:  # noqa: BLE001 - it is logged
                log_safely(
                    _logger,
                    logging.ERROR,
                    "a callback failed at %s of schedule %s",
                    event.kind.value,
                    event.schedule,
                    exc_info=True,
                    extra={"offload_schedule": event.schedule},
                )
        for iterator in tuple(self._iterators):
            iterator.give(event)


class Events:
    """Events as they come: an async iterator within `async with`.

    Attributes:
        dropped: events that were dropped, the oldest first, since the consumer was too slow.
    """

    def __init__(self, home: list[Events], schedule: str | None) -> None:
        self._home = home
        self._schedule = schedule
        self._kept: deque[ScheduleEvent] = deque()
        self._ring = anyio.Event()
        self.dropped: int = 0

    async def __aenter__(self) -> Self:
        """Begin to keep events."""
        self._home.append(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep no more."""
        self._home.remove(self)
        self._kept.clear()

    def give(self, event: ScheduleEvent) -> None:
        """Keep an event for the consumer; of other schedules: none of its business."""
        if self._schedule is not None and event.schedule != self._schedule:
            return
        if len(self._kept) >= _MAX_KEPT:
            self._kept.popleft()
            self.dropped += 1
        self._kept.append(event)
        self._ring.set()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> ScheduleEvent:
        """Return the next event; it waits for one."""
        while not self._kept:
            self._ring = anyio.Event()
            await self._ring.wait()
        return self._kept.popleft()


_LEVELS: Final = {
    EventKind.FAILED: logging.ERROR,
    EventKind.TIMED_OUT: logging.ERROR,
    EventKind.MISSED: logging.WARNING,
    EventKind.SKIPPED_OVERLAP: logging.WARNING,
    EventKind.CANCELLED: logging.WARNING,
    EventKind.ENDED: logging.INFO,
}


_WHY_NOT: Final = {
    EventKind.SKIPPED_OVERLAP: "skipped: an earlier run has not ended",
    EventKind.FIRED_ELSEWHERE: "is another process's",
}


def _log(event: ScheduleEvent) -> None:
    level = _LEVELS.get(event.kind, logging.DEBUG)
    if not _logger.isEnabledFor(level):
        return
    extra: dict[str, object] = {"offload_schedule": event.schedule, "offload_fire": event.fire}
    log_safely(
        _logger,
        level,
        "schedule %s: %s",
        event.schedule,
        _text(event),
        exc_info=event.error if level == logging.ERROR else None,
        extra=extra,
    )


def _text(event: ScheduleEvent) -> str:
    if event.kind is EventKind.ENDED:
        return "will not fire again"
    if event.kind is EventKind.MISSED:
        assert event.first is not None
        assert event.fire_time is not None
        assert event.missed is not None
        first, last = event.first.isoformat(), event.fire_time.isoformat()
        times = first if first == last else f"{first} to {last}"
        return f"missed {times} ({event.missed.value})"
    match event.kind:
        case EventKind.STARTED | EventKind.ENQUEUED:
            return f"{event.fire} {event.kind.value}, {event.lateness or 0.0:.3f} s late"
        case EventKind.SKIPPED_OVERLAP | EventKind.FIRED_ELSEWHERE:
            return f"{event.fire} {_WHY_NOT[event.kind]}"
        case EventKind.FAILED | EventKind.TIMED_OUT:
            return f"{event.fire} {event.kind.value.replace('_', ' ')}: {event.error}"
        case _:
            return f"{event.fire} {event.kind.value} after {event.run_seconds or 0.0:.3f} s"

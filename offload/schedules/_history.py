"""The runs of schedules that have ended: those of this process, and those that an engine knows."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from offload.schedules._events import EventKind
from offload.schedules._fires import ScheduleRun
from offload.schedules._last_run import OUTCOMES
from offload.schedules._records import FireReason

if TYPE_CHECKING:
    from offload.jobs._status import JobStatus
    from offload.schedules._events import ScheduleEvent
    from offload.schedules._schedule import Schedule

__all__ = ["Recent", "history"]

# Of all schedules of a scheduler together: what runs often does not fill the memory. As many as a
# store of jobs lists at once; else arbitrary.
_MOST_RECENT: Final = 1000
_MAX_ERROR: Final = 1000
_ENDS: Final = frozenset(
    {EventKind.FINISHED, EventKind.FAILED, EventKind.TIMED_OUT, EventKind.CANCELLED}
)


class Recent:
    """The last runs that ended in this process, of all schedules of one scheduler."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: Final[deque[tuple[str, ScheduleRun]]] = deque(maxlen=_MOST_RECENT)

    def note(self, event: ScheduleEvent) -> None:
        """Remember what an event tells; for `Teller.add`."""
        if event.kind not in _ENDS or event.fire is None or event.fire_time is None:
            return
        error = event.error
        run = ScheduleRun(
            id=event.fire,
            fire_time=event.fire_time,
            reason=event.reason or FireReason.SCHEDULED,
            outcome=event.kind,
            started_at=event.at - timedelta(seconds=event.run_seconds or 0.0),
            ended_at=event.at,
            # Neither results nor tracebacks, which may hold anything.
            error=None if error is None else f"{type(error).__name__}: {error}"[:_MAX_ERROR],
        )
        self._runs.append((event.schedule, run))

    def of(self, name: str, count: int) -> list[ScheduleRun]:
        """Return the last runs of one schedule, the latest first."""
        found = [run for schedule, run in reversed(self._runs) if schedule == name]
        return found[:count]


async def history(schedule: Schedule, recent: Recent | None, count: int) -> list[ScheduleRun]:
    """Return the last runs of a schedule; see `Schedule.history`."""
    if not 1 <= count <= _MOST_RECENT:
        raise ValueError(f"count must be from 1 to {_MOST_RECENT}, not {count}")
    if schedule.jobs is not None:
        page = await schedule.jobs.find(id_prefix=f"{schedule.name}@", limit=count)
        return [_of_job(schedule, status) for status in page.jobs]
    found = [] if recent is None else recent.of(schedule.name, count)
    last = await schedule.last_run()
    if last is not None and last.id not in {each.id for each in found}:
        # Of another process: the engine keeps that one.
        found = sorted([*found, last], key=lambda run: run.started_at, reverse=True)
    return found[:count]


def _of_job(schedule: Schedule, status: JobStatus) -> ScheduleRun:
    fire_time, reason = _fire_of(status.id.removeprefix(f"{schedule.name}@"), status.created_at)
    error = status.error
    return ScheduleRun(
        id=status.id,
        fire_time=schedule.local(fire_time),
        reason=reason,
        outcome=OUTCOMES[status.state] if status.state.is_over else None,
        started_at=status.created_at,
        ended_at=status.ended_at,
        error=None if error is None else f"{error.type}: {error.message}",
    )


def _fire_of(text: str, otherwise: datetime) -> tuple[datetime, FireReason]:
    """Return the fire time and the reason that the end of a fire's id tells."""
    instant = text.removesuffix("-manual").removesuffix("Z")
    form = "%Y%m%dT%H%M%S.%f" if "." in instant else "%Y%m%dT%H%M%S"
    reason = FireReason.MANUAL if text.endswith("-manual") else FireReason.SCHEDULED
    try:
        return datetime.strptime(instant, form).replace(tzinfo=UTC), reason
    except ValueError:
        # A job that somebody else has given such an id.
        return otherwise, reason

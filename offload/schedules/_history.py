"""The runs of schedules that have ended: those of this process, and those that an engine knows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from offload.schedules._events import EventKind
from offload.schedules._fires import ScheduleRun
from offload.schedules._last_run import OUTCOMES, run_of
from offload.schedules._records import FireReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs import Jobs
    from offload.jobs._status import JobStatus
    from offload.jobs._values import JobRecord
    from offload.schedules._events import ScheduleEvent
    from offload.schedules._schedule import Schedule
    from offload.schedules._scheduler import Scheduler

__all__ = ["Recent", "Standing", "history", "standings"]

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


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a schedule beyond its own process.

    Attributes:
        last: its last run.
        is_paused: whether it is paused.
    """

    last: ScheduleRun | None
    is_paused: bool


async def standings(
    pairs: Sequence[tuple[Schedule, Scheduler]],
) -> dict[tuple[Scheduler, str], Standing]:
    """Return how schedules stand, by scheduler and name; few round trips for many of them.

    Raises:
        JobsUnavailableError: an engine cannot be reached.
    """
    groups: dict[Jobs | None, list[tuple[Schedule, Scheduler]]] = {}
    for schedule, scheduler in pairs:
        jobs = scheduler.jobs if schedule.jobs is None else schedule.jobs
        groups.setdefault(jobs, []).append((schedule, scheduler))
    found: dict[tuple[Scheduler, str], Standing] = {}
    for jobs, group in groups.items():
        stored = {} if jobs is None else await _stored(jobs, group)
        for schedule, scheduler in group:
            name = schedule.name
            last, is_paused = stored.get(name, (None, False))
            here = scheduler.levers.recent.of(name, 1)
            if here and (last is None or here[0].started_at >= last.started_at):
                last = here[0]
            is_paused = is_paused or schedule.status == "paused"
            found[scheduler, name] = Standing(last, is_paused)
    return found


async def _stored(
    jobs: Jobs, group: Sequence[tuple[Schedule, Scheduler]]
) -> dict[str, tuple[ScheduleRun | None, bool]]:
    """Return the last run of each schedule that the engine knows, and whether it is paused."""
    by_name = {schedule.name: schedule for schedule, _ in group}
    store = group[0][1].levers.store_of(group[0][0])
    assert store is not None
    specs = {}
    if not all(scheduler.is_running for _, scheduler in group):
        # One that runs follows them.
        specs = await store.specs()
    runs = {
        name: run_of(by_name[name], state.last)
        for name, state in (await store.states(list(by_name))).items()
        if state.last is not None
    }
    asked = [run.id for name, run in runs.items() if by_name[name].jobs is not None]
    records = await (await jobs.engine()).get(asked) if asked else ()
    ended = {record.id: record for record in records if record is not None}
    return {
        name: (
            _with_record(runs[name], ended.get(runs[name].id)) if name in runs else None,
            name in specs and specs[name].is_paused,
        )
        for name in by_name
    }


def _with_record(run: ScheduleRun, record: JobRecord | None) -> ScheduleRun:
    if record is None or not record.state.is_over:
        return run
    return ScheduleRun(
        id=run.id,
        fire_time=run.fire_time,
        reason=run.reason,
        outcome=OUTCOMES[record.state],
        started_at=run.started_at,
        ended_at=record.ended_at,
        error=None if record.error is None else f"{record.error.type}: {record.error.message}",
    )


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

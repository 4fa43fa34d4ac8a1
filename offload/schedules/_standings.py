"""How many schedules stand, at once: for whoever lists them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.schedules._fires import ScheduleRun
from offload.schedules._last_run import OUTCOMES, run_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offload.jobs import Jobs
    from offload.jobs._values import JobRecord
    from offload.schedules._schedule import Schedule
    from offload.schedules._scheduler import Scheduler

__all__ = ["Standing", "standings"]


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

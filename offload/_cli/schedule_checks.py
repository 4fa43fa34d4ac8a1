"""What the doctor thinks of schedules: those that never fire, and times that the clock skips."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from offload._cli.findings import Finding, Level, count, found
from offload._cli.report import ScheduleReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload.schedules import Schedule

__all__ = ["check_schedules", "inspect_schedules"]

_SECTION = "Schedules"
# Each zone that changes its clock at all does so within a year, and most twice.
_AHEAD = timedelta(days=400)


def inspect_schedules() -> tuple[ScheduleReport, ...]:
    """Return what there is of schedules in this process; in the doctor's child."""
    # Not imported here: whoever has schedules has done so.
    if "offload.schedules._scheduler" not in sys.modules:
        return ()
    from offload.schedules import Scheduler

    made = [schedule for scheduler in Scheduler.all() for schedule in scheduler]
    return tuple(_report(each) for each in sorted(made, key=lambda each: each.name))


def _report(schedule: Schedule) -> ScheduleReport:
    from offload.schedules import Cron

    times, now = schedule.fire_times, datetime.now(UTC)
    gaps = times.skipped(now, now + _AHEAD) if isinstance(times, Cron) else []
    return ScheduleReport(
        name=schedule.name,
        fire_times=repr(times),
        does_fire=schedule.next_run() is not None,
        skipped=tuple(
            (wall.isoformat(sep=" "), schedule.local(instant).isoformat()) for wall, instant in gaps
        ),
    )


def check_schedules(reports: tuple[ScheduleReport, ...]) -> Iterator[Finding]:
    """Say which schedules do not do what they seem to."""
    for each in reports:
        if not each.does_fire:
            yield found(
                Level.WARN,
                _SECTION,
                "never",
                f"{each.name}: {each.fire_times} has no fire time left",
                "its instant or its end lies in the past, or end lies before the first fire time: "
                "remove it, or correct that",
            )
        for wall, instant in each.skipped:
            yield found(
                Level.WARN,
                _SECTION,
                "gap",
                f"{each.name}: {each.fire_times}: there is no {wall}, the clock is set forward; it "
                f"fires at {instant} instead",
                'choose a time of day that no clock change touches, or timezone="UTC", if that '
                "matters",
            )
    good = sum(each.does_fire and not each.skipped for each in reports)
    if good:
        yield found(Level.OK, _SECTION, "fire", f"{count(good, 'schedule')} without a surprise")

"""Schedules: when functions run by themselves.

Needs `pip install 'offload[schedules]'`. Names are imported when they are first used: worker
processes import this package with what they run, and need next to nothing of it.

`_calendar`, `_fire_times`, `_agenda` and what they need are pure: they know when what fires, read
no clock, wait for nothing and run nothing. `_running` has the timer, `_runs` what fires set going,
`_store` what an engine knows of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from offload.schedules._agenda import Agenda
    from offload.schedules._context import FireContext
    from offload.schedules._declaration import StoredSchedule, StoredSchedules
    from offload.schedules._decorator import schedule
    from offload.schedules._errors import (
        FireTimeoutError,
        NotFiredError,
        ScheduleError,
        ScheduleNotFoundError,
    )
    from offload.schedules._events import EventKind, Events, ScheduleEvent
    from offload.schedules._fire_times import At, Cron, Every, FireTimes
    from offload.schedules._fires import ScheduleRun
    from offload.schedules._options import PolicyDict
    from offload.schedules._records import (
        Action,
        Cancel,
        Coalesce,
        Finished,
        FinishReason,
        Fire,
        FireReason,
        Missed,
        MissedReason,
        Overlap,
        Phase,
        Policy,
        SkippedOverlap,
        Snapshot,
        fire_id,
    )
    from offload.schedules._schedule import Schedule, ScheduleStatus
    from offload.schedules._scheduler import Scheduler, default_scheduler

__all__ = [
    "Action",
    "Agenda",
    "At",
    "Cancel",
    "Coalesce",
    "Cron",
    "EventKind",
    "Events",
    "Every",
    "FinishReason",
    "Finished",
    "Fire",
    "FireContext",
    "FireReason",
    "FireTimeoutError",
    "FireTimes",
    "Missed",
    "MissedReason",
    "NotFiredError",
    "Overlap",
    "Phase",
    "Policy",
    "PolicyDict",
    "Schedule",
    "ScheduleError",
    "ScheduleEvent",
    "ScheduleNotFoundError",
    "ScheduleRun",
    "ScheduleStatus",
    "Scheduler",
    "SkippedOverlap",
    "Snapshot",
    "StoredSchedule",
    "StoredSchedules",
    "default_scheduler",
    "fire_id",
    "schedule",
]

_HOMES = {
    "_agenda": ("Agenda",),
    "_context": ("FireContext",),
    "_decorator": ("schedule",),
    "_errors": ("FireTimeoutError", "NotFiredError", "ScheduleError", "ScheduleNotFoundError"),
    "_events": ("EventKind", "Events", "ScheduleEvent"),
    "_fire_times": ("At", "Cron", "Every", "FireTimes"),
    "_records": (
        "Action",
        "Cancel",
        "Coalesce",
        "FinishReason",
        "Finished",
        "Fire",
        "FireReason",
        "Missed",
        "MissedReason",
        "Overlap",
        "Phase",
        "Policy",
        "SkippedOverlap",
        "Snapshot",
        "fire_id",
    ),
    "_fires": ("ScheduleRun",),
    "_options": ("PolicyDict",),
    "_schedule": ("Schedule", "ScheduleStatus"),
    "_scheduler": ("Scheduler", "default_scheduler"),
    "_declaration": ("StoredSchedule", "StoredSchedules"),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name from its home."""
    module = _MODULE_OF.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})

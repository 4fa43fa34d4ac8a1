"""Schedules: when functions run by themselves.

Needs `pip install 'offload[schedules]'`. This is the pure half: fire times (`Cron`, `Every`, `At`)
and what is decided about them (`Agenda`). It reads no clock, waits for nothing and runs nothing.
"""

from offload.schedules._agenda import Agenda
from offload.schedules._errors import ScheduleError
from offload.schedules._fire_times import At, Cron, Every, FireTimes
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

__all__ = [
    "Action",
    "Agenda",
    "At",
    "Cancel",
    "Coalesce",
    "Cron",
    "Every",
    "FinishReason",
    "Finished",
    "Fire",
    "FireReason",
    "FireTimes",
    "Missed",
    "MissedReason",
    "Overlap",
    "Phase",
    "Policy",
    "ScheduleError",
    "SkippedOverlap",
    "Snapshot",
    "fire_id",
]

"""The words of schedules: policies that users choose, and actions that are decided by them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from offload.schedules._errors import ScheduleError
from offload.schedules._zones import to_utc

__all__ = [
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
    "Span",
    "fire_id",
]

# Fire times after the first instant, up to and including the second one.
Span = tuple[datetime, datetime]


class Coalesce(Enum):
    """What becomes of several fire times of a schedule that are due at once."""

    ONCE = "once"
    """The last one fires, for all of them."""
    ALL = "all"
    """Each of them fires, in order."""
    SKIP = "skip"
    """None of them fires; the next one will."""


class Overlap(Enum):
    """What becomes of a fire time that comes while the schedule is still running."""

    SKIP = "skip"
    """It is skipped."""
    QUEUE_ONE = "queue_one"
    """It waits until the run has ended. One waits at a time; further ones are skipped."""
    CANCEL_RUNNING = "cancel_running"
    """The run is cancelled. When it has ended, the latest fire time that has come runs."""
    ALLOW = "allow"
    """It runs beside the other one."""


class Phase(Enum):
    """What a schedule does."""

    ACTIVE = "active"
    """It fires."""
    PAUSED = "paused"
    """It does not fire until it is resumed; what would have fired meanwhile never will."""
    FINISHED = "finished"
    """It will not fire again."""


class FireReason(Enum):
    """Why something runs."""

    SCHEDULED = "scheduled"
    """Its fire time has come."""
    MANUAL = "manual"
    """Somebody asked for it."""


class MissedReason(Enum):
    """Why fire times do not run."""

    TOO_LATE = "too_late"
    """They were seen later than the misfire grace allows."""
    COALESCED = "coalesced"
    """A later one, due at the same moment, runs for them."""
    SKIPPED = "skipped"
    """Several were due at once, and the policy is to run none of these."""
    CATCH_UP_LIMIT = "catch_up_limit"
    """More were due at once than may be caught up with; these are the oldest."""
    PAUSED = "paused"
    """It waited for a run to end when the schedule was paused."""


class FinishReason(Enum):
    """Why a schedule will not fire again."""

    NO_FIRE_TIMES = "no_fire_times"
    """No fire times are left, before its end or at all."""
    MAX_EXECUTIONS = "max_executions"
    """It has run as often as it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a schedule deals with lateness, overlap and limits.

    Attributes:
        misfire_grace: seconds by which a fire may be late and still run; None: however late.
        coalesce: what becomes of several fire times that are due at once, after downtime.
        max_catch_up: how many of them run at most, the latest ones, with `Coalesce.ALL`.
        overlap: what becomes of a fire time while the schedule is still running.
        max_executions: after so many scheduled runs it is finished; None: never.
        start: the first instant at which it may fire; None: at once.
        end: the last such instant; None: no end.
        random_delay: seconds by which each fire is delayed at most, so that not all machines do
            the same at once. Drawn from the id of the fire: the same in every process and after
            every restart. A fire never waits as long as until the next fire time.

    Raises:
        ScheduleError: a value is out of range, or an instant is naive.
    """

    misfire_grace: float | None = None
    coalesce: Coalesce = Coalesce.ONCE
    max_catch_up: int = 100
    overlap: Overlap = Overlap.SKIP
    max_executions: int | None = None
    start: datetime | None = None
    end: datetime | None = None
    random_delay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("misfire_grace", "random_delay"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise ScheduleError(f"{name}={seconds}: must be seconds, 0 or more")
        for name in ("max_catch_up", "max_executions"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ScheduleError(f"{name}={number}: must be 1 or more")
        for name in ("start", "end"):
            instant = getattr(self, name)
            if instant is not None:
                object.__setattr__(self, name, to_utc(instant))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ScheduleError(
                f"end {self.end.isoformat()} lies before start {self.start.isoformat()}"
            )


@dataclass(frozen=True, slots=True)
class Fire:
    """Run the schedule's function.

    Attributes:
        schedule: name of the schedule.
        id: the same for the same fire in every process; put as a job, it can run only once.
        fire_time: the instant that it was scheduled for, in UTC, before any random delay.
        due: when it was to start: `fire_time` and the random delay. Lateness counts from here.
        reason: why it runs.
    """

    schedule: str
    id: str
    fire_time: datetime
    due: datetime
    reason: FireReason


@dataclass(frozen=True, slots=True)
class Missed:
    """All fire times from `first` to `last` do not run.

    Attributes:
        schedule: name of the schedule.
        first: the first of them, in UTC.
        last: the last of them; the same as `first` if it is the only one.
        reason: why.
    """

    schedule: str
    first: datetime
    last: datetime
    reason: MissedReason


@dataclass(frozen=True, slots=True)
class SkippedOverlap:
    """A fire does not run, because an earlier run has not ended.

    Attributes:
        schedule: name of the schedule.
        id: of the fire.
        fire_time: the instant that it was scheduled for, in UTC.
    """

    schedule: str
    id: str
    fire_time: datetime


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel a run, and tell the agenda when it has ended.

    Attributes:
        schedule: name of the schedule.
        id: of the fire that is running.
    """

    schedule: str
    id: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The schedule will not fire again; a run of it may still be under way.

    Attributes:
        schedule: name of the schedule.
        reason: why.
    """

    schedule: str
    reason: FinishReason


Action = Fire | Missed | SkippedOverlap | Cancel | Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What must be kept of a schedule for it to go on after a restart.

    Attributes:
        handled_until: every fire time up to here has been decided.
        passed_over: but for these, which nobody saw in time. They fire if the clock is set back to
            before them.
        executions: how often it has run by schedule.
        phase: what it does.
        running: what runs, oldest first.
        queued: what waits for these to end.
    """

    handled_until: datetime
    passed_over: tuple[Span, ...] = ()
    executions: int = 0
    phase: Phase = Phase.ACTIVE
    running: tuple[Fire, ...] = ()
    queued: Fire | None = None


def fire_id(schedule: str, fire_time: datetime) -> str:
    """Return the id of a fire: `schedule@20261130T030000Z`.

    The basic format of ISO 8601, since not every job store takes a colon in an id. Fractions of a
    second are there if there are any.
    """
    instant = to_utc(fire_time)
    text = instant.strftime("%Y%m%dT%H%M%S")
    # strftime does not pad the years before 1000 on every platform, which no schedule has.
    return f"{schedule}@{text}{f'.{instant.microsecond:06}' if instant.microsecond else ''}Z"

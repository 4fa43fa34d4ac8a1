"""What the page of schedules shows, as JSON: which schedules, and how they stand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from heapq import nsmallest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from offload.schedules import Schedule, Scheduler, ScheduleRun
    from offload.schedules._standings import Standing

__all__ = ["Asked", "Shown", "chosen", "row", "run_row"]

# An error is told in full by the log; here by its beginning.
_MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Shown:
    """A schedule, and which scheduler of this process has it.

    Attributes:
        schedule: it.
        scheduler: whose it is; of one that was made at run time, any that has its jobs.
        key: names the two for as long as the process lives.
    """

    schedule: Schedule
    scheduler: Scheduler

    @property
    def key(self) -> str:
        """Return what names it among all of this process."""
        return f"{id(self.scheduler):x}/{self.schedule.name}"

    @property
    def due(self) -> datetime | None:
        """Return when it fires next, as its scheduler knows; None: it does not, or not here."""
        state = self.scheduler.levers.state_of(self.schedule.name)
        return None if state is None else state.due


@dataclass(frozen=True, slots=True)
class Asked:
    """Which schedules somebody wants to see.

    Attributes:
        text: in the name or in the function's; in any case.
        status: a `ScheduleStatus`; empty: any.
        order: "name" or "next".
        limit: how many at most.
        start: how many of the first to leave out.
    """

    text: str = ""
    status: str = ""
    order: str = "name"
    limit: int = 50
    start: int = 0


def chosen(shown: Iterable[Shown], asked: Asked) -> tuple[list[Shown], int]:
    """Return a page of those that match, and how many do; on any thread."""
    text = asked.text.casefold()
    found = [
        each
        for each in shown
        if asked.status in ("", each.schedule.status.value)
        and (
            not text
            or text in each.schedule.name.casefold()
            or text in _function(each.schedule).casefold()
        )
    ]
    key = _by_next if asked.order == "next" else _by_name
    return nsmallest(asked.start + asked.limit, found, key=key)[asked.start :], len(found)


def _by_name(shown: Shown) -> tuple[str, str]:
    return shown.schedule.name, shown.key


def _by_next(shown: Shown) -> tuple[float, str]:
    due = shown.due
    return math.inf if due is None else due.timestamp(), shown.key


def row(shown: Shown, standing: Standing | None) -> dict[str, Any]:
    """Return what the list shows of a schedule; on any thread."""
    schedule = shown.schedule
    late = shown.scheduler.levers.lateness_of(schedule.name)
    is_paused = standing is not None and standing.is_paused
    last = None if standing is None else standing.last
    due = None if is_paused else shown.due or schedule.next_run()
    return {
        "key": shown.key,
        "name": schedule.name,
        "function": _function(schedule),
        "fire_times": repr(schedule.fire_times),
        "runs": "in memory" if schedule.jobs is None else "as jobs",
        "is_fired_here": shown.scheduler.is_running,
        "status": "paused" if is_paused else schedule.status.value,
        "next": _at(due),
        "next_local": None if due is None else schedule.local(due).isoformat(timespec="seconds"),
        "last": None if last is None else run_row(last),
        "late": None
        if not late.count
        else {
            "count": late.count,
            "p50": round(late.quantile(0.5), 6),
            "p99": round(late.quantile(0.99), 6),
            "max": round(late.maximum, 6),
        },
    }


def run_row(run: ScheduleRun) -> dict[str, Any]:
    """Return what is shown of a run."""
    error = run.error
    told = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
    return {
        "id": run.id,
        "fire_time": run.fire_time.isoformat(timespec="seconds"),
        "reason": run.reason.value,
        "outcome": None if run.outcome is None else run.outcome.value,
        "started_at": _at(run.started_at),
        "ended_at": _at(run.ended_at),
        "error": None if told is None else told[:_MOST_CHARACTERS],
    }


def _function(schedule: Schedule) -> str:
    # The rest of the page needs no schedules to be there.
    from offload.schedules._call import name_of

    # Of one that was made at run time there is the name only.
    function: Any = schedule.function
    return function if isinstance(function, str) else name_of(function)


def _at(at: datetime | None) -> float | None:
    return None if at is None else at.astimezone(UTC).timestamp()

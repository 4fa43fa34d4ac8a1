"""What a schedule may be given: names, fire times and policies, checked when it is declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict

from offload.schedules._errors import ScheduleError
from offload.schedules._fire_times import At, Cron, Every, FireTimes
from offload.schedules._records import Coalesce, Overlap, Policy

if TYPE_CHECKING:
    from datetime import datetime, tzinfo

__all__ = ["PolicyDict", "checked_name", "fire_times_of", "policy_of"]

# What engines take as the id of a job, less what stands behind the name.
_MAX_NAME: Final = 150
_OURS: Final = (Cron, Every, At)


class PolicyDict(TypedDict, total=False):
    """How a schedule deals with lateness, overlap and limits.

    Attributes:
        misfire_grace: seconds by which a fire may be late and still run; None, the default:
            however late.
        coalesce: what becomes of several fire times that are due at once, after downtime; default
            `Coalesce.ONCE`: the last one fires for all.
        max_catch_up: how many of them run at most with `Coalesce.ALL`, the latest ones; default
            100.
        overlap: what becomes of a fire time while the schedule still runs; default
            `Overlap.SKIP`.
        max_executions: after so many runs by schedule it is finished; None, the default: never.
        start: the first instant at which it may fire, aware; None: at once.
        end: the last such instant; None: no end.
        random_delay: seconds by which each fire is delayed at most, so that not all machines do
            the same at once; the same for the same fire in every process; default 0.
    """

    misfire_grace: float | None
    coalesce: Coalesce | str
    max_catch_up: int
    overlap: Overlap | str
    max_executions: int | None
    start: datetime | None
    end: datetime | None
    random_delay: float


def checked_name(name: str) -> str:
    """Return a name that will do.

    Raises:
        ScheduleError: it will not.
    """
    if not name.isprintable() or not 1 <= len(name) <= _MAX_NAME:
        raise ScheduleError(
            f"a schedule's name has 1 to {_MAX_NAME} printable characters, and not {name!r:.200}"
        )
    return name


def fire_times_of(fire_times: FireTimes | str, timezone: str | tzinfo) -> FireTimes:
    """Return fire times of whatever a schedule was given.

    Raises:
        ScheduleError: something is wrong with it.
    """
    if isinstance(fire_times, str):
        return Cron(fire_times, timezone)
    # By the class first: to ask a protocol takes a hundred times as long.
    if not isinstance(fire_times, _OURS) and not isinstance(fire_times, FireTimes):
        raise ScheduleError(
            f"{fire_times!r:.100} is no fire time: give a cron expression, Cron, Every or At"
        )
    if timezone != "UTC":
        raise ScheduleError(
            f"timezone={timezone!r} is for a cron expression; give it to {fire_times!r}"
        )
    return fire_times


def policy_of(options: PolicyDict) -> Policy:
    """Return a policy; words may stand for members of its enums.

    Raises:
        ScheduleError: a value is out of range, or no such word.
        TypeError: unknown option.
    """
    given: dict[str, Any] = dict(options)
    for name, kind in (("coalesce", Coalesce), ("overlap", Overlap)):
        if name in given:
            try:
                given[name] = kind(given[name])
            except ValueError:
                words = ", ".join(repr(each.value) for each in kind)
                raise ScheduleError(f"{name}={given[name]!r}: must be one of {words}") from None
    unknown = sorted(given.keys() - PolicyDict.__annotations__.keys())
    if unknown:
        known = ", ".join(PolicyDict.__annotations__)
        raise TypeError(f"unknown option {unknown[0]!r}; options of the policy are {known}")
    return Policy(**given)

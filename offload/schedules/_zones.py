"""Time zones by name, and the instant at which one changes its offset."""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from offload.schedules._errors import ScheduleError

__all__ = ["as_utc", "find_zone", "offset_change", "to_utc"]

_SECOND = timedelta(seconds=1)


def find_zone(zone: str | tzinfo) -> tzinfo:
    """Return the time zone of that name.

    Args:
        zone: an IANA name such as `"Europe/Berlin"`; or a `ZoneInfo` or `datetime.timezone`, which
            is returned as it is.

    Raises:
        ScheduleError: there is no zone of that name here, or the object is of another class.
    """
    if isinstance(zone, ZoneInfo | timezone):
        return zone
    if not isinstance(zone, str):
        # pytz and dateutil do not follow PEP 495 in full: a fire time could be off by an hour.
        raise ScheduleError(
            f"time zone {zone!r} is a {type(zone).__name__}; "
            'pass an IANA name such as "Europe/Berlin", a ZoneInfo or a datetime.timezone'
        )
    try:
        return ZoneInfo(zone)
    # OSError: the name of a folder, or one that is too long for the file system.
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError(_unknown(zone)) from error


def _unknown(name: str) -> str:
    known = available_timezones()
    if not known:
        return (
            f"time zone {name!r} cannot be found: this system has no time zone data; "
            "pip install tzdata"
        )
    by_folded = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.75)
    if not close:
        # "Berlin" is close to no full name, but is one's last part.
        by_city = {each.rpartition("/")[2]: each for each in sorted(by_folded)}
        cities = difflib.get_close_matches(name.casefold(), by_city, n=1, cutoff=0.8)
        close = [by_city[city] for city in cities]
    hint = f"did you mean {by_folded[close[0]]!r}?" if close else "names are as in Europe/Berlin"
    return f"unknown time zone {name!r}: {hint}"


def to_utc(instant: datetime) -> datetime:
    """Return the same instant in UTC.

    Raises:
        ScheduleError: it is naive.
    """
    if instant.tzinfo is UTC:
        return instant
    if instant.utcoffset() is None:
        raise ScheduleError(
            f"{instant.isoformat()} has no UTC offset and could be any of many instants; "
            "pass an aware datetime"
        )
    return instant.astimezone(UTC)


def as_utc(wall: datetime, offset: timedelta) -> datetime:
    """Return the instant at which a clock with that offset from UTC shows `wall`."""
    return (wall - offset).replace(tzinfo=UTC)


def offset_change(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    """Return the first instant, to the second, after `low` with another offset than at `low`.

    Args:
        zone: whose offset.
        low: an instant in UTC before the change.
        high: an instant in UTC at or after it, before any further change.
    """
    before = low.astimezone(zone).utcoffset()
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high

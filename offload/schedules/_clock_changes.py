"""From wall-clock times to instants: what becomes of fire times when a zone changes its offset.

The rule, after Debian's cron:

1. An expression whose second, minute or hour field begins with `*` means *intervals*. It fires at
   each instant at which the clock on the wall matches. In an hour that is skipped there is no such
   instant; in an hour that comes twice there are twice as many. `*/15 * * * *` fires every 15
   minutes of time that passes, whatever the clock shows.
2. Any other expression means *times of day*. Each of them fires once:
   a. one that is skipped fires at the instant of the change, which is the first one after the gap.
      If several are skipped, or one falls on that instant by itself, that is one fire;
   b. one that comes twice fires at the first of the two.

This holds for a change of any size. (Debian's cron takes one of three hours and more for a
correction of the clock; zones have skipped whole days.)

All instants are in UTC: Python compares and subtracts datetimes of one zone by what the wall shows,
which is wrong in the very hours that matter here.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING

from offload.schedules._zones import as_utc, offset_change

if TYPE_CHECKING:
    from offload.schedules._calendar import Calendar

__all__ = ["fire_after", "fire_before", "skipped"]

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)


def _offsets(wall: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    # They differ in a gap and in a repeated hour only: PEP 495. In a gap, the first is smaller.
    first = wall.replace(tzinfo=zone).utcoffset()
    second = wall.replace(tzinfo=zone, fold=1).utcoffset()
    assert first is not None
    assert second is not None
    return first, second


def _change_around(wall: datetime, zone: tzinfo) -> datetime:
    # The change that makes this wall-clock time skipped or repeated.
    offsets = _offsets(wall, zone)
    return offset_change(zone, as_utc(wall, max(offsets)), as_utc(wall, min(offsets)))


def _shown(instant: datetime, offset: timedelta) -> datetime:
    return (instant + offset).replace(tzinfo=None)


def _on_wall(instant: datetime, zone: tzinfo) -> tuple[datetime, bool]:
    # What the wall shows, and whether it does so for the second time.
    local = instant.astimezone(zone)
    return local.replace(tzinfo=None, fold=0), local.fold == 1


def fire_after(calendar: Calendar, zone: tzinfo, instant: datetime) -> datetime | None:
    """Return the first fire time after `instant`, a whole second in UTC."""
    if calendar.is_elapsing:
        return _interval_after(calendar, zone, instant)
    wall, is_second = _on_wall(instant, zone)
    if is_second:
        # Times of the repeated hour have fired when it came first: go on after its end.
        first, _ = _offsets(wall, zone)
        wall = _shown(_change_around(wall, zone), first) - _SECOND
    following = calendar.after(wall)
    if following is None:
        return None
    first, second = _offsets(following, zone)
    return as_utc(following, first) if first >= second else _change_around(following, zone)


def fire_before(calendar: Calendar, zone: tzinfo, instant: datetime) -> datetime | None:
    """Return the last fire time before `instant`, a whole second in UTC."""
    if calendar.is_elapsing:
        return _interval_before(calendar, zone, instant)
    wall, is_second = _on_wall(instant, zone)
    if is_second:
        first, _ = _offsets(wall, zone)
        wall = _shown(_change_around(wall, zone), first)
    while (previous := calendar.before(wall)) is not None:
        first, second = _offsets(previous, zone)
        if first >= second:
            return as_utc(previous, first)
        change = _change_around(previous, zone)
        if change < instant:
            return change
        # `instant` is the change itself: go on before the gap.
        wall = _shown(change, first)
    return None


def _interval_after(calendar: Calendar, zone: tzinfo, instant: datetime) -> datetime | None:
    wall, is_second = _on_wall(instant, zone)
    first, second = _offsets(wall, zone)
    if first > second and not is_second:
        following = calendar.after(wall)
        change = _change_around(wall, zone)
        if following is not None and following < _shown(change, first):
            return as_utc(following, first)
        # Nothing more in the hour as it comes first: go on where it comes again.
        instant = change - _SECOND
        wall = _shown(change, second) - _SECOND
    while (following := calendar.after(wall)) is not None:
        first, second = _offsets(following, zone)
        if first >= second:
            fire = as_utc(following, first)
            return fire if fire > instant else as_utc(following, second)
        wall = _shown(_change_around(following, zone), second) - _SECOND
    return None


def _interval_before(calendar: Calendar, zone: tzinfo, instant: datetime) -> datetime | None:
    wall, is_second = _on_wall(instant, zone)
    first, second = _offsets(wall, zone)
    if first > second and is_second:
        previous = calendar.before(wall)
        change = _change_around(wall, zone)
        if previous is not None and previous >= _shown(change, second):
            return as_utc(previous, second)
        # Nothing more in the hour as it came again: go on at the end of its first time.
        instant = change
        wall = _shown(change, first)
    while (previous := calendar.before(wall)) is not None:
        first, second = _offsets(previous, zone)
        if first >= second:
            fire = as_utc(previous, second)
            return fire if fire < instant else as_utc(previous, first)
        wall = _shown(_change_around(previous, zone), first)
    return None


def skipped(
    calendar: Calendar, zone: tzinfo, start: datetime, end: datetime
) -> list[tuple[datetime, datetime]]:
    """Return the times of day that the clock skips: the first of each gap, and when that fires."""
    found: list[tuple[datetime, datetime]] = []
    day = start
    while day < end and not calendar.is_elapsing:
        following = day + _DAY
        if following.astimezone(zone).utcoffset() != day.astimezone(zone).utcoffset():
            change = offset_change(zone, day, following)
            before = (change - _SECOND).astimezone(zone).utcoffset()
            after = change.astimezone(zone).utcoffset()
            assert before is not None
            assert after is not None
            wall = calendar.after(_shown(change, before) - _SECOND)
            if wall is not None and wall < _shown(change, after):
                found.append((wall, change))
        day = following
    return found

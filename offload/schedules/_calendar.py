"""The wall-clock times that a cron expression matches, in order, without any time zone."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache

__all__ = ["Calendar", "Days"]

# The Gregorian calendar repeats itself after so many years: what does not match within them never
# does.
_CYCLE_YEARS = 400
# A year of room, so that no conversion between zones leaves the range of datetime.
_MIN_YEAR, _MAX_YEAR = 2, 9998
_DAYS_IN_MONTH = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FEBRUARY = 2
_WEEK = 7
_SUNDAY, _SATURDAY = 0, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """What a cron expression says of dates within a month. Weekdays count from 0, Sunday, to 6.

    Attributes:
        days: matching days of the month.
        has_last_day: `L` is among the days of the month.
        has_last_workday: `LW` is.
        nearest_workdays: the days that stand before a `W`.
        weekdays: matching weekdays.
        nth_weekdays: weekday and number of each `weekday#number`.
        last_weekdays: the weekdays that stand before an `L`.
        needs_both: a date must match the day of the month and the weekday; else either will do.
    """

    days: frozenset[int]
    has_last_day: bool
    has_last_workday: bool
    nearest_workdays: frozenset[int]
    weekdays: frozenset[int]
    nth_weekdays: frozenset[tuple[int, int]]
    last_weekdays: frozenset[int]
    needs_both: bool
    _known: dict[tuple[int, int], tuple[int, ...]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def in_month(self, first: int, length: int) -> tuple[int, ...]:
        """Return the days that match, in order, in a month of that first weekday and length."""
        days = self._known.get((first, length))
        if days is None:
            found = (day for day in range(1, length + 1) if self._matches(day, first, length))
            days = self._known[first, length] = tuple(found)
        return days

    def _matches(self, day: int, first: int, length: int) -> bool:
        weekday = (first + day - 1) % _WEEK
        by_date = (
            day in self.days
            or (self.has_last_day and day == length)
            or (self.has_last_workday and day == _nearest_workday(length, first, length))
            or any(
                day == _nearest_workday(each, first, length)
                for each in self.nearest_workdays
                if each <= length
            )
        )
        by_weekday = (
            weekday in self.weekdays
            or (weekday, (day - 1) // _WEEK + 1) in self.nth_weekdays
            or (weekday in self.last_weekdays and day + _WEEK > length)
        )
        return by_date and by_weekday if self.needs_both else by_date or by_weekday


@lru_cache(maxsize=2048)
def _shape(year: int, month: int) -> tuple[int, int]:
    # Weekday of the first, and length: all that a rule about days can depend on.
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    length = _DAYS_IN_MONTH[month] + (month == _FEBRUARY and is_leap)
    return date(year, month, 1).isoweekday() % _WEEK, length


class Calendar:
    """Finds the wall-clock times that match, in both directions.

    A month is one of 28: seven weekdays of its first, four lengths. The days that match in each are
    worked out once, so that a search costs a few bisections however rare the match is.

    Args:
        times: matching hours, minutes and seconds, each in order.
        days: which dates of a month match.
        months: matching months, in order, from 1.
        is_elapsing: the expression means intervals of time rather than times of day.
    """

    __slots__ = (
        "_days",
        "_first",
        "_hours",
        "_last",
        "_minutes",
        "_months",
        "_seconds",
        "is_elapsing",
    )

    def __init__(
        self,
        times: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        days: Days,
        months: tuple[int, ...],
        *,
        is_elapsing: bool,
    ) -> None:
        self._hours, self._minutes, self._seconds = times
        self._days, self._months = days, months
        self._first = self._hours[0], self._minutes[0], self._seconds[0]
        self._last = self._hours[-1], self._minutes[-1], self._seconds[-1]
        self.is_elapsing = is_elapsing

    def can_match(self) -> bool:
        """Return whether anything matches at all; 30 February, for one, does not."""
        # 2000 is the leap year of a whole cycle. 29 February falls on every weekday within it.
        lengths = {_shape(2000, month)[1] for month in self._months}
        return any(
            self._days.in_month(first, length) for first in range(_WEEK) for length in lengths
        )

    def after(self, wall: datetime) -> datetime | None:
        """Return the first match after `wall`; None if there is none in the calendar's range."""
        year, month, day = wall.year, wall.month, wall.day
        if year < _MIN_YEAR:
            year, month, day = _MIN_YEAR, 1, 0
        if month in self._months and year <= _MAX_YEAR:
            days = self._days.in_month(*_shape(year, month))
            if day in days:
                time = self._time_after(wall.hour, wall.minute, wall.second)
                if time is not None:
                    return datetime(year, month, day, *time)  # noqa: DTZ001 - a wall-clock time
            place = bisect_right(days, day)
            if place < len(days):
                return datetime(year, month, days[place], *self._first)  # noqa: DTZ001
        for each in range(year, min(year + _CYCLE_YEARS, _MAX_YEAR) + 1):
            for candidate in self._months:
                if each > year or candidate > month:
                    days = self._days.in_month(*_shape(each, candidate))
                    if days:
                        return datetime(each, candidate, days[0], *self._first)  # noqa: DTZ001
        return None

    def before(self, wall: datetime) -> datetime | None:
        """Return the last match before `wall`; None if there is none in the calendar's range."""
        year, month, day = wall.year, wall.month, wall.day
        if year > _MAX_YEAR:
            year, month, day = _MAX_YEAR, 12, 32
        if month in self._months and year >= _MIN_YEAR:
            days = self._days.in_month(*_shape(year, month))
            if day in days:
                time = self._time_before(wall.hour, wall.minute, wall.second)
                if time is not None:
                    return datetime(year, month, day, *time)  # noqa: DTZ001
            place = bisect_left(days, day)
            if place:
                return datetime(year, month, days[place - 1], *self._last)  # noqa: DTZ001
        for each in range(year, max(year - _CYCLE_YEARS, _MIN_YEAR) - 1, -1):
            for candidate in reversed(self._months):
                if each < year or candidate < month:
                    days = self._days.in_month(*_shape(each, candidate))
                    if days:
                        return datetime(each, candidate, days[-1], *self._last)  # noqa: DTZ001
        return None

    def _time_after(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        if hour in self._hours:
            if minute in self._minutes:
                place = bisect_right(self._seconds, second)
                if place < len(self._seconds):
                    return hour, minute, self._seconds[place]
            place = bisect_right(self._minutes, minute)
            if place < len(self._minutes):
                return hour, self._minutes[place], self._seconds[0]
        place = bisect_right(self._hours, hour)
        if place < len(self._hours):
            return self._hours[place], self._minutes[0], self._seconds[0]
        return None

    def _time_before(self, hour: int, minute: int, second: int) -> tuple[int, int, int] | None:
        if hour in self._hours:
            if minute in self._minutes:
                place = bisect_left(self._seconds, second)
                if place:
                    return hour, minute, self._seconds[place - 1]
            place = bisect_left(self._minutes, minute)
            if place:
                return hour, self._minutes[place - 1], self._seconds[-1]
        place = bisect_left(self._hours, hour)
        if place:
            return self._hours[place - 1], self._minutes[-1], self._seconds[-1]
        return None


def _nearest_workday(day: int, first: int, length: int) -> int:
    # Within the month: before a Saturday the 1st and after a Sunday the last lies another month.
    weekday = (first + day - 1) % _WEEK
    if weekday == _SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == _SUNDAY:
        return day + 1 if day < length else day - 2
    return day

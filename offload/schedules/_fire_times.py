"""Fire times: when a schedule fires, by a cron expression, at an interval, or once.

Every instant that goes in may be in any zone; every instant that comes out is in UTC, because
Python compares and subtracts datetimes of one zone by what its clock shows, which is wrong around a
change of its offset. What the clock shows is `instant.astimezone(fire_times.timezone)`.

No clock is read here: fire times are a fixed set of instants, and each question names the instant
that it counts from. So a late scheduler, a restarted one and a second one all see the same fire
times, and nothing drifts.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol, runtime_checkable

from offload.schedules._clock_changes import fire_after, fire_before, skipped
from offload.schedules._errors import ScheduleError
from offload.schedules._expression import parse
from offload.schedules._zones import find_zone, to_utc

__all__ = ["At", "Cron", "Every", "FireTimes"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
# Finer than any timer of an event loop keeps.
_LEAST_INTERVAL = timedelta(milliseconds=1)


@runtime_checkable
class FireTimes(Protocol):
    """A set of instants, in order: all that a schedule knows of time."""

    @property
    @abstractmethod
    def timezone(self) -> tzinfo:
        """The zone in which to show these instants."""

    @abstractmethod
    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire time after an instant.

        Args:
            instant: aware, in any zone; is itself never returned.

        Returns:
            An instant in UTC; None if there are no more fire times.

        Raises:
            ScheduleError: the instant is naive.
        """

    @abstractmethod
    def previous_before(self, instant: datetime) -> datetime | None:
        """Return the last fire time before an instant; otherwise as `next_after`."""

    def next_n(self, instant: datetime, count: int) -> list[datetime]:
        """Return the first `count` fire times after an instant, fewer if there are no more."""
        found: list[datetime] = []
        following = self.next_after(instant) if count > 0 else None
        while following is not None:
            found.append(following)
            following = self.next_after(following) if len(found) < count else None
        return found


class Cron(FireTimes):
    """The times at which a clock on the wall matches a cron expression.

    Fields are minute, hour, day of month, month and day of week, after the seconds if there are
    six. Each takes numbers, `*`, ranges (`1-5`), steps (`*/15`, `8-18/2`), names (`JAN`, `MON`) and
    lists of these. 0 and 7 are Sunday. The day of month also takes `L` (last day), `LW` (last
    workday) and `15W` (workday nearest the 15th, within the month), the day of week `5L` (last
    Friday) and `1#2` (2nd Monday). Words are `@yearly`, `@annually`, `@monthly`, `@weekly`,
    `@daily`, `@midnight` and `@hourly`.

    As in Debian's cron, a date must match both day fields if one of them begins with `*`, and
    either of them if none does.

    When the clock changes, a fire time that does not exist, or exists twice, fires once:

    * An expression whose second, minute or hour field begins with `*` means intervals. It follows
      the time that passes: `*/15 * * * *` fires every 15 minutes, throughout an hour that comes
      twice, and has nothing to fire in one that is skipped.
    * Any other expression means times of day. One that is skipped fires at the change, the first
      instant after the gap (several of them: once); one that comes twice fires the first time.

    Args:
        expression: five or six fields, or a word.
        timezone: IANA name of the zone whose clock it is; or a `ZoneInfo` or `datetime.timezone`.

    Raises:
        ScheduleError: the expression or the zone is wrong, or the expression never fires.

    Source:
        cron(8) and crontab(5) of Debian; `L`, `W` and `#` as in Quartz.
    """

    __slots__ = ("_calendar", "_expression", "_offset", "_timezone")

    def __init__(self, expression: str, timezone: str | tzinfo = "UTC") -> None:
        self._expression = expression
        self._timezone = find_zone(timezone)
        self._calendar = parse(expression)
        # None where the offset depends on the instant.
        self._offset = self._timezone.utcoffset(None)

    @property
    def expression(self) -> str:
        """The expression as it was given."""
        return self._expression

    @property
    def timezone(self) -> tzinfo:
        """The zone whose clock it is."""
        return self._timezone

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire time after an instant, in UTC; None if there are no more."""
        start = to_utc(instant)
        if start.microsecond:
            start = start.replace(microsecond=0)
        try:
            if self._offset is None:
                return fire_after(self._calendar, self._timezone, start)
            wall = self._calendar.after((start + self._offset).replace(tzinfo=None))
        except OverflowError:
            # Within a day of what a datetime can be.
            return None
        return None if wall is None else (wall - self._offset).replace(tzinfo=UTC)

    def previous_before(self, instant: datetime) -> datetime | None:
        """Return the last fire time before an instant, in UTC; None if there was none."""
        end = to_utc(instant)
        try:
            if end.microsecond:
                end = end.replace(microsecond=0) + _SECOND
            if self._offset is None:
                return fire_before(self._calendar, self._timezone, end)
            wall = self._calendar.before((end + self._offset).replace(tzinfo=None))
        except OverflowError:
            return None
        return None if wall is None else (wall - self._offset).replace(tzinfo=UTC)

    def skipped(self, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """Return the times of day that the clock skips when it is set forward.

        Args:
            start: the first instant to look at, aware.
            end: the last one.

        Returns:
            For each change the first of them, as the clock would have shown it (naive), and the
            instant in UTC at which it fires instead. Empty for an expression that means intervals.
        """
        if self._offset is not None:
            return []
        whole = to_utc(start).replace(microsecond=0)
        return skipped(self._calendar, self._timezone, whole, to_utc(end))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cron):
            return NotImplemented
        return self._expression == other._expression and self._timezone == other._timezone

    def __hash__(self) -> int:
        return hash((self._expression, self._timezone))

    def __reduce__(self) -> tuple[Any, ...]:
        return Cron, (self._expression, self._timezone)

    def __repr__(self) -> str:
        return f"Cron({self._expression!r}, timezone={str(self._timezone)!r})"


class Every(FireTimes):
    """Instants at equal distances, whatever any clock shows.

    Args:
        interval: seconds, to the microsecond, or a timedelta; a millisecond at least.
        anchor: one of the instants; the others lie before and after it. By default the epoch, so
            that every process has the same fire times: `Every(3600)` fires on each full hour of
            UTC.

    Raises:
        ScheduleError: the interval is too short, infinite or no number; the anchor is naive.
    """

    __slots__ = ("_anchor", "_interval", "_timezone")

    def __init__(self, interval: float | timedelta, anchor: datetime = _EPOCH) -> None:
        try:
            step = interval if isinstance(interval, timedelta) else timedelta(seconds=interval)
        except (OverflowError, ValueError) as error:
            raise ScheduleError(f"an interval of {interval} seconds: {error}") from error
        if step < _LEAST_INTERVAL:
            raise ScheduleError(f"an interval of {step.total_seconds()} seconds; 0.001 at least")
        self._interval = step
        self._anchor = to_utc(anchor)
        self._timezone = anchor.tzinfo or UTC

    @property
    def interval(self) -> timedelta:
        """The distance of two fire times."""
        return self._interval

    @property
    def timezone(self) -> tzinfo:
        """The zone of the anchor."""
        return self._timezone

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire time after an instant, in UTC; None at the end of all datetimes."""
        passed = to_utc(instant) - self._anchor
        try:
            return self._anchor + self._interval * (passed // self._interval + 1)
        except OverflowError:
            return None

    def previous_before(self, instant: datetime) -> datetime | None:
        """Return the last fire time before an instant, in UTC; None as in `next_after`."""
        passed = to_utc(instant) - self._anchor
        try:
            # Rounded up, less one: an instant that is a fire time is not its own predecessor.
            return self._anchor + self._interval * (-(-passed // self._interval) - 1)
        except OverflowError:
            return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Every):
            return NotImplemented
        return self._interval == other._interval and self._anchor == other._anchor

    def __hash__(self) -> int:
        return hash((self._interval, self._anchor))

    def __reduce__(self) -> tuple[Any, ...]:
        return Every, (self._interval, self._anchor.astimezone(self._timezone))

    def __repr__(self) -> str:
        if self._anchor == _EPOCH:
            return f"Every({self._interval.total_seconds()})"
        return f"Every({self._interval.total_seconds()}, anchor={self._anchor.isoformat()!r})"


class At(FireTimes):
    """One instant, and no other.

    Args:
        instant: aware, in any zone.

    Raises:
        ScheduleError: the instant is naive.
    """

    __slots__ = ("_instant", "_timezone")

    def __init__(self, instant: datetime) -> None:
        self._instant = to_utc(instant)
        self._timezone = instant.tzinfo or UTC

    @property
    def timezone(self) -> tzinfo:
        """The zone in which the instant was given."""
        return self._timezone

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the instant, in UTC, if it lies after the one given."""
        return self._instant if self._instant > to_utc(instant) else None

    def previous_before(self, instant: datetime) -> datetime | None:
        """Return the instant, in UTC, if it lies before the one given."""
        return self._instant if self._instant < to_utc(instant) else None

    def __eq__(self, other: object) -> bool:
        return self._instant == other._instant if isinstance(other, At) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._instant)

    def __reduce__(self) -> tuple[Any, ...]:
        return At, (self._instant.astimezone(self._timezone),)

    def __repr__(self) -> str:
        return f"At({self._instant.astimezone(self._timezone).isoformat()!r})"

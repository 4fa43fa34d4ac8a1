"""Fire times by looking at every minute (or second), for comparison with those of the library.

Slow, plain, and of other ideas: a field is asked for each value, a date for each day, an instant
for each tick, and the rule for clock changes is told as a story of a clock that somebody watches.
"""

import calendar
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

MONTHS = dict(
    zip(
        ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
        range(1, 13),
        strict=False,
    )
)
WEEKDAYS = dict(zip(["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"], range(7), strict=False))
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def number(text, names):
    """Return the number that a name or digits stand for."""
    return names[text.upper()] if text.upper() in names else int(text)


def says(field, value, low, high, names=()):
    """Return whether a field of numbers says yes to a value."""
    for term in field.split(","):
        body, _, step = term.partition("/")
        if body == "*":
            first, last = low, high
        elif "-" in body:
            first, last = (number(each, names) for each in body.split("-"))
        else:
            first = number(body, names)
            last = high if step else first
        if first <= value <= last and (value - first) % int(step or 1) == 0:
            return True
    return False


def says_date(field, day):
    """Return whether the day of the month says yes; `L`, `LW` and `15W` stand alone or in lists."""
    days = calendar.monthrange(day.year, day.month)[1]
    for term in field.upper().split(","):
        if term == "L":
            wanted = days
        elif term == "LW":
            wanted = max(d for d in range(1, days + 1) if day.replace(day=d).weekday() < 5)
        elif re.fullmatch(r"\d+W", term):
            target = int(term[:-1])
            if target > days:
                continue
            workdays = [d for d in range(1, days + 1) if day.replace(day=d).weekday() < 5]
            wanted = min(workdays, key=lambda d: abs(d - target))
        else:
            if says(term, day.day, 1, 31):
                return True
            continue
        if day.day == wanted:
            return True
    return False


def says_weekday(field, day):
    """Return whether the day of the week says yes."""
    weekday = day.isoweekday() % 7
    same = [
        week[day.weekday()]
        for week in calendar.monthcalendar(day.year, day.month)
        if week[day.weekday()]
    ]
    for term in field.upper().split(","):
        if term.endswith("L"):
            if int(term[:-1]) % 7 == weekday and day.day == same[-1]:
                return True
        elif "#" in term:
            name, _, nth = term.partition("#")
            if number(name, WEEKDAYS) % 7 == weekday and same.index(day.day) == int(nth) - 1:
                return True
        elif any(says(term, each, 0, 7, WEEKDAYS) for each in {weekday, weekday or 7}):
            return True
    return False


class Watched:
    """A cron expression, asked about one wall-clock time after the other."""

    def __init__(self, expression, tick=None):
        fields = expression.split()
        self.has_seconds = len(fields) == 6
        if not self.has_seconds:
            fields.insert(0, "0")
        seconds, minutes, hours, self.dates, self.months, self.weekdays = fields
        self.seconds = {s for s in range(60) if says(seconds, s, 0, 59)}
        self.minutes = {m for m in range(60) if says(minutes, m, 0, 59)}
        self.hours = {h for h in range(24) if says(hours, h, 0, 23)}
        self.is_elapsing = "*" in seconds[0] + minutes[0] + hours[0]
        self.tick = tick or (SECOND if self.has_seconds else MINUTE)
        self.says_day = lru_cache(maxsize=None)(self._says_day)

    def _says_day(self, day):
        if not says(self.months, day.month, 1, 12, MONTHS):
            return False
        by_date, by_weekday = says_date(self.dates, day), says_weekday(self.weekdays, day)
        if self.dates[0] == "*" or self.weekdays[0] == "*":
            return by_date and by_weekday
        return by_date or by_weekday

    def says(self, wall):
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.second in self.seconds
            and self.says_day(wall.date())
        )

    def fires(self, walls):
        """Return the instants that fire, of a list of (instant, what the wall shows)."""
        if self.is_elapsing:
            return [instant for instant, wall in walls if self.says(wall)]
        # Somebody looks at the clock at each tick, and does all that is on the list between what it
        # showed at the most and what it shows now.
        found = []
        latest = walls[0][1] - self.tick
        for instant, wall in walls:
            if wall <= latest:
                continue
            if wall - latest == self.tick:
                is_on_list = self.says(wall)
            else:
                skipped = (wall - latest) // self.tick
                is_on_list = any(self.says(wall - self.tick * n) for n in range(skipped))
            if is_on_list:
                found.append(instant)
            latest = wall
        return found


def watch(zone, start, end, tick):
    """Return each instant with what a clock of the zone shows."""
    found = []
    while start < end:
        found.append((start, start.astimezone(zone).replace(tzinfo=None, fold=0)))
        start += tick
    return found


def change_within(zone, low, high):
    """Return the first second with another offset than at `low`."""
    before = low.astimezone(zone).utcoffset()
    while high - low > SECOND:
        middle = low + ((high - low) // 2 // SECOND) * SECOND
        low, high = (
            (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
        )
    return high


def changes(first_year=2020, last_year=2035):
    """Return one zone for each change of offset there is: zone, instant, offset before, after."""
    found = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        day = datetime(first_year, 1, 1, tzinfo=UTC)
        offset = day.astimezone(zone).utcoffset()
        while day.year <= last_year:
            following = day + timedelta(days=1)
            after = following.astimezone(zone).utcoffset()
            if after != offset:
                instant = change_within(zone, day, following)
                found.setdefault((instant, offset, after), name)
            day, offset = following, after
    return [(name, *change) for change, name in found.items()]


def ours(fire_times, start, end):
    """Return the fire times of the library from `start` on, before `end`."""
    found = []
    fire = fire_times.next_after(start - SECOND)
    while fire is not None and fire < end:
        found.append(fire)
        fire = fire_times.next_after(fire)
    return found


def ours_backwards(fire_times, start, end):
    """Return the same, looked for from the end."""
    found = []
    fire = fire_times.previous_before(end)
    while fire is not None and fire >= start:
        found.append(fire)
        fire = fire_times.previous_before(fire)
    return found[::-1]

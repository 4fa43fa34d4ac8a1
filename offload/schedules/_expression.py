"""Cron expressions, parsed: which fields they have, and what is wrong with those that are refused.

The grammar is cronsim's, which is that of Debian's cron with `L`, `LW`, `#` and seconds. Each term
is handed to it alone, at its place among stars, so that what it refuses is known by field and
position. Ours are the day `15W` (workday nearest the 15th), words such as `@daily`, and the refusal
of what cronsim takes but nobody means.
"""

from __future__ import annotations

import difflib
import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from offload.schedules._calendar import Calendar, Days
from offload.schedules._errors import ScheduleError
from offload.schedules._terms import FIELDS, Field, what_is_right

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["parse"]

_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_WITHOUT_SECONDS, _WITH_SECONDS = 5, 6
# Arbitrary; the longest sensible expression has a tenth of that.
_MAX_LENGTH = 1000
_NEAREST_WORKDAY = re.compile(r"(\d{1,2})W")
# A term is parsed in the company of stars, and the instant it would count from is of no matter.
_SOME_INSTANT = datetime(2000, 1, 1)  # noqa: DTZ001 - cronsim asks for one
# Places of the fields in the six-field form.
_DAY, _WEEKDAY = 3, 5


@lru_cache(maxsize=4096)
def parse(expression: str) -> Calendar:
    """Return the calendar of an expression; the same one for the same expression.

    Raises:
        ScheduleError: it is no cron expression, or one that never matches.
    """
    text = _expand(expression)
    words = [(match.group(), match.start()) for match in re.finditer(r"\S+", text)]
    if len(words) not in {_WITHOUT_SECONDS, _WITH_SECONDS}:
        raise ScheduleError(_wrong_number(expression, len(words)), expression=expression)
    if len(words) == _WITHOUT_SECONDS:
        words.insert(0, ("0", 0))
    seconds, minutes, hours, days, months, weekdays = (
        _parse_field(field, word, position, expression)
        for field, (word, position) in zip(FIELDS, words, strict=True)
    )
    has_star = [word.startswith("*") for word, _ in words]
    calendar = Calendar(
        (hours, minutes, seconds),
        # Debian's cron: either will do only if neither field begins with a star.
        _shared(_days(days, weekdays, needs_both=has_star[_DAY] or has_star[_WEEKDAY])),
        months,
        is_elapsing=any(has_star[:_DAY]),
    )
    if not calendar.can_match():
        day, position = words[_DAY]
        raise ScheduleError(
            f"cron expression {expression!r} never fires: "
            "no month that it names has a day that it names",
            expression=expression,
            field=FIELDS[_DAY].name,
            position=position if day != "*" else words[_WEEKDAY][1],
        )
    return calendar


def _expand(expression: str) -> str:
    if len(expression) > _MAX_LENGTH:
        raise ScheduleError(
            f"cron expression of {len(expression):,} characters; at most {_MAX_LENGTH:,}",
            expression=expression,
        )
    if not expression.isascii():
        position = next(i for i, each in enumerate(expression) if not each.isascii())
        raise ScheduleError(
            f"{expression[position]!r} at position {position} of {expression!r}: "
            "a cron expression has ASCII characters only",
            expression=expression,
            position=position,
        )
    word = expression.strip().lower()
    if not word.startswith("@"):
        return expression
    if word in _WORDS:
        return _WORDS[word]
    if word == "@reboot":
        hint = "it has no fire times; call the function when the program starts"
    elif word.startswith("@every"):
        hint = "for a fixed interval use Every(seconds)"
    else:
        close = difflib.get_close_matches(word, _WORDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"words are {', '.join(_WORDS)}"
    raise ScheduleError(
        f"unknown word {word!r}: {hint}", expression=expression, position=expression.index("@")
    )


def _wrong_number(expression: str, number: int) -> str:
    text = (
        f"cron expression {expression!r} has {number} field{'s' * (number != 1)}; write five "
        "(minute, hour, day of month, month, day of week), or six with the seconds first"
    )
    return text + "; there is no field for years" if number > _WITH_SECONDS else text


def _parse_field(field: Field, word: str, position: int, expression: str) -> tuple[Any, ...]:
    found: tuple[Any, ...] | None = None
    items: list[Any] = []
    offset = 0
    for term in word.upper().split(","):
        hint = what_is_right(field, term)
        found = None if hint else _parse_term(field, term)
        if found is None:
            at = position + offset
            raise ScheduleError(
                f"{field.name} {term!r} at position {at} of {expression!r}: "
                f"{hint or field.grammar}",
                expression=expression,
                field=field.name,
                position=at,
            )
        items += found
        offset += len(term) + 1
    # Of a single term, the tuple that all expressions with that term share.
    assert found is not None
    return _in_order(items) if "," in word else found


def _in_order(items: Iterable[Any]) -> tuple[Any, ...]:
    # Days and weekdays may have what cannot be compared.
    return tuple(sorted(set(items), key=lambda item: (isinstance(item, tuple), str(item).zfill(4))))


@lru_cache(maxsize=1024)
def _parse_term(field: Field, term: str) -> tuple[Any, ...] | None:
    nearest = _NEAREST_WORKDAY.fullmatch(term) if field.place == _DAY else None
    if nearest and int(nearest[1]) in field.range:
        return (term,)
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise ImportError(
            f"cron expressions need cronsim ({error}): pip install 'offload[schedules]'"
        ) from error
    # cronsim 2.8 reads the range of one number in "2-2/3" as "2/3", which goes to the end.
    start, _, end = term.partition("/")[0].partition("-")
    if end and field.number(start) == field.number(end) is not None:
        term = start
    alone = ["*"] * _WITH_SECONDS
    alone[field.place] = term
    try:
        parsed: Any = CronSim(" ".join(alone), _SOME_INSTANT)
    except CronSimError:
        return None
    special = {CronSim.LAST: "L", CronSim.LAST_WEEKDAY: "LW"}
    found = getattr(parsed, field.attribute)
    if field.place == _DAY:
        found = {special.get(each, each) for each in found}
    if field.place == _WEEKDAY:
        # 7 is Sunday, as 0 is.
        found = {
            (each[0] % 7, special.get(each[1], each[1])) if isinstance(each, tuple) else each % 7
            for each in found
        }
    return _in_order(found)


@lru_cache(maxsize=1024)
def _shared(days: Days) -> Days:
    # Most expressions say the same of days, and what is worked out about it serves them all.
    return days


def _days(days: tuple[Any, ...], weekdays: tuple[Any, ...], *, needs_both: bool) -> Days:
    pairs = [each for each in weekdays if isinstance(each, tuple)]
    return Days(
        days=frozenset(each for each in days if isinstance(each, int)),
        has_last_day="L" in days,
        has_last_workday="LW" in days,
        nearest_workdays=frozenset(
            int(each[:-1]) for each in days if isinstance(each, str) and each[0].isdigit()
        ),
        weekdays=frozenset(each for each in weekdays if isinstance(each, int)),
        nth_weekdays=frozenset(each for each in pairs if each[1] != "L"),
        last_weekdays=frozenset(each[0] for each in pairs if each[1] == "L"),
        needs_both=needs_both,
    )

"""What a term of a cron expression may be, and what is said of one that is wrong."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

__all__ = ["FIELDS", "Field", "what_is_right"]

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# No number of a field has that many; int() refuses what is absurdly long.
_MAX_DIGITS = 9
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(frozen=True, slots=True)
class Field:
    """One of the six fields.

    Attributes:
        place: index in the six-field form.
        name: what errors call it.
        attribute: what cronsim calls it.
        range: the numbers that it takes.
        names: names for them, from the first number on.
        grammar: what a term may be, for readers.
    """

    place: int
    name: str
    attribute: str
    range: range
    names: tuple[str, ...]
    grammar: str

    def number(self, text: str) -> int | None:
        """Return the number that a name or digits stand for; None if they are neither."""
        if text in self.names:
            return self.names.index(text) + self.range.start
        return int(text) if text.isdigit() else None


def _field(place: int, name: str, attribute: str, top: int, more: str = "") -> Field:
    low = 1 if name in {"day of month", "month"} else 0
    names = {"month": _MONTHS, "day of week": _WEEKDAYS}.get(name, ())
    named = f" or {names[0]} to {names[-1]}" if names else ""
    return Field(
        place,
        name,
        attribute,
        range(low, top + 1),
        names,
        f'write {low} to {top}{named}, a range as "{low}-{low + 2}", a step as "*/2"{more}, '
        "or several of these with commas",
    )


FIELDS = (
    _field(0, "second", "seconds", 59),
    _field(1, "minute", "minutes", 59),
    _field(2, "hour", "hours", 23),
    _field(
        3,
        "day of month",
        "days",
        31,
        ', "L" for the last day, "LW" for the last workday, "15W" for the workday nearest the 15th',
    ),
    _field(4, "month", "months", 12),
    _field(5, "day of week", "weekdays", 7, ', "5L" for the last Friday, "1#2" for the 2nd Monday'),
)


def what_is_right(field: Field, term: str) -> str | None:
    """Return what to write instead of a term with a well-known mistake; None for any other.

    Args:
        field: where the term stands.
        term: in upper case, without commas.
    """
    if not term:
        return "nothing stands between two commas, or before or after one; remove the comma"
    if term == "?":
        return 'write "*" for any'
    return _wrong_letter(field, term) or _wrong_step(field, term) or _wrong_value(field, term)


def _wrong_letter(field: Field, term: str) -> str | None:
    if "#" in term and field.name != "day of week":
        return '"#" belongs into the day of week, as "1#2" for the 2nd Monday'
    if re.fullmatch(r"\d*L?W", term) and field.name != "day of month":
        return '"W" belongs into the day of month, as "15W" for the workday nearest the 15th'
    if re.fullmatch(r"\d*L", term) and not field.name.startswith("day"):
        return '"L" belongs into the day of month or the day of week'
    if re.fullmatch(r"LW?/.*", term):
        return "there is but one last day; remove the step"
    return _wrong_last_weekday(field, term) if field.name == "day of week" else None


def _wrong_last_weekday(field: Field, term: str) -> str | None:
    if term == "L":
        return 'say which: "5L" is the last Friday of the month; for Saturdays write 6'
    if (named := re.fullmatch(r"([A-Z]{3})L", term)) and named[1] in field.names:
        return f'write "{field.number(named[1])}L"'
    return None


def _wrong_step(field: Field, term: str) -> str | None:
    start, slash, step = term.partition("/")
    if not slash or not step.isdigit() or len(step) > _MAX_DIGITS:
        return f'a step is a number, as "{start or "*"}/2"' if slash else None
    if int(step) == 0:
        return "a step of 0 never moves on; the least is 1"
    if int(step) > len(field.range):
        return (
            f"a step of {int(step)} leaves the field ({_span(field)}) at once; "
            "for an interval that is longer use Every(seconds)"
        )
    return None


def _wrong_value(field: Field, term: str) -> str | None:
    start, _, end = term.partition("/")[0].partition("-")
    plain = re.compile(r"[A-Z]+|\d+")
    for text in (start, end):
        value = text.partition("#")[0]
        if field.name.startswith("day"):
            value = value.removesuffix("W" if field.name == "day of month" else "L")
        if not plain.fullmatch(value) or value in {"L", ""}:
            continue
        if value.isalpha() and value not in field.names:
            return _unknown_name(field, value)
        if len(value) > _MAX_DIGITS or field.number(value) not in field.range:
            return f"{value[:_MAX_DIGITS]} is out of range ({_span(field)})"
    low, high = field.number(start), field.number(end) if end else None
    if low is not None and high is not None and high < low:
        return f'a range goes upwards; write "{_turned(field, low, high)}"'
    if "#" in term and not re.fullmatch(r"[A-Z0-9]+#[1-5]", term):
        return 'a weekday comes up to 5 times in a month: "1#1" to "1#5"'
    return None


def _unknown_name(field: Field, name: str) -> str | None:
    if not field.names:
        return None
    # "MONDAY", "SEPT": the first three letters are the name.
    close = [name[:3]] if name[:3] in field.names else []
    close = close or difflib.get_close_matches(name, field.names, n=1)
    return f"did you mean {close[0]}?" if close else f"names are {', '.join(field.names)}"


def _turned(field: Field, low: int, high: int) -> str:
    first, last = field.range.start, field.range.stop - 1
    if field.name == "day of week":
        if high == 0:
            return f"{low}-7"
        last = 6
    head = f"{low}-{last}" if low < last else f"{low}"
    tail = f"{first}-{high}" if first < high else f"{high}"
    return f"{head},{tail}"


def _span(field: Field) -> str:
    return f"{field.range.start} to {field.range.stop - 1}"

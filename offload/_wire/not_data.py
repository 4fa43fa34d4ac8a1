"""What is no data, where it was found, and what to do about it."""

from __future__ import annotations

import datetime as dt

from offload._wire.data_format import MOST_DEPTH

__all__ = ["NotDataError", "check_zone", "described", "shown"]

_ZONE_ADVICE = "Give it a fixed offset, as value.astimezone(timezone.utc) does."
_SHOWN_CHARACTERS = 50


class NotDataError(Exception):
    """A value is no data; gathers its path on the way out.

    Attributes:
        what: what was found, as "a numpy.ndarray".
        advice: what to do about it, a sentence or "".
        steps: the path from the value outwards.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what, advice)
        self.what = what
        self.advice = advice
        self.steps: list[str] = []

    def within(self, step: str) -> NotDataError:
        """Add the part of the path that is around what is known."""
        if len(self.steps) <= MOST_DEPTH:
            self.steps.append(step)
        return self

    @property
    def path(self) -> str:
        """Where it was found, the outermost part first."""
        return "".join(reversed(self.steps))


def check_zone(zone: dt.tzinfo | None) -> None:
    """Raise `NotDataError` for a time zone that is more than an offset."""
    if zone is None:
        return
    if type(zone) is not dt.timezone:
        raise NotDataError(f"in a time zone of {described(zone)}", _ZONE_ADVICE)
    offset = zone.utcoffset(None)
    if zone.tzname(None) != dt.timezone(offset).tzname(None):
        raise NotDataError(f"in a time zone with a name of its own, {zone}", _ZONE_ADVICE)


def shown(key: object) -> str:
    """Return a key as it is written, or what it is if it cannot say."""
    try:
        return repr(key)[:_SHOWN_CHARACTERS]
    except BaseException:
        return f"<{type(key).__name__}>"


def described(value: object) -> str:
    """Return what a value is, as "a numpy.ndarray"."""
    kind = type(value)
    module = kind.__module__
    return f"a {kind.__qualname__}" if module == "builtins" else f"a {module}.{kind.__qualname__}"

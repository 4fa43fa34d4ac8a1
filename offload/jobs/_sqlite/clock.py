"""Where an engine has the time from; tests hand in another one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

__all__ = ["Clock", "SystemClock", "from_seconds", "to_seconds"]


# What `datetime` can say.
_FIRST = datetime.min.replace(tzinfo=UTC).timestamp()
_LAST = datetime.max.replace(tzinfo=UTC, microsecond=0).timestamp()


class Clock(Protocol):
    """Two clocks that all processes of a machine share."""

    def now(self) -> float:
        """Return seconds since the epoch: for instants that people read, and delays."""
        ...

    def monotonic(self) -> float:
        """Return seconds that nobody can set: for leases."""
        ...


class SystemClock:
    """The clocks of the machine."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since some moment, the same one for all processes."""
        return time.monotonic()


def from_seconds(seconds: float) -> datetime:
    """Return seconds since the epoch as an instant: the last one that there is, if past that."""
    # Whoever else has written to the file may have put any number there, and one such row must not
    # end every worker program that comes upon it.
    return datetime.fromtimestamp(min(max(seconds, _FIRST), _LAST), UTC)


def to_seconds(instant: datetime) -> float:
    """Return an instant as seconds since the epoch.

    Raises:
        ValueError: it has no time zone, and so is none.
    """
    if instant.tzinfo is None:
        raise ValueError(f"{instant!r} has no time zone; write datetime.now(UTC), for example")
    return instant.timestamp()

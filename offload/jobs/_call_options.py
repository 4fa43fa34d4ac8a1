"""Options of jobs as users give them: of a call before those of its function and of `Jobs`."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar

from offload.jobs._functions import OPTIONS, plain
from offload.jobs._options import DEFAULT_BACKOFF, Backoff, JobOptions, Unique

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Unpack

__all__ = ["JobOptionsDict", "Resolved", "checked", "job_options", "new_id", "resolve"]

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")

_MAX_ID: Final = 200
_MAX_NAME: Final = 200


class JobOptionsDict(TypedDict, total=False):
    """Options of a job.

    Attributes:
        queue: name of its queue; default "default".
        delay: seconds before it may run.
        at: instant before which it may not run, an aware datetime; not together with `delay`.
        priority: larger runs first; equal ones in order of arrival.
        max_attempts: errors and timeouts up to which it is tried, the first included; default 1.
        backoff: delays between attempts; a number is a fixed delay in seconds without jitter.
        max_crashes: crashes that it survives; with one more it has failed. Default 2.
        timeout: seconds that one attempt may run; None: as `@offload(timeout=…)` says.
        deadline: instant by which it must have ended, an aware datetime; past it, it fails.
        id: of your own, for one job: enqueuing it again changes nothing, even when it is over.
        unique: a key under which there is one job at a time in its queue; `Unique` adds for how
            long; True: function and arguments are the key.
        keep: seconds that it is kept after its end; default a week. None: until it is removed.
        max_logs: log lines that are kept with it; default 1,000.
    """

    queue: str
    delay: float
    at: datetime
    priority: int
    max_attempts: int
    backoff: Backoff | float
    max_crashes: int
    timeout: float | None
    deadline: datetime | None
    id: str
    unique: str | Unique | Literal[True] | None
    keep: float | None
    max_logs: int


_PLAIN: Final = (
    "priority",
    "max_attempts",
    "max_crashes",
    "timeout",
    "deadline",
    "keep",
    "max_logs",
)
_OF_ONE_JOB: Final = ("id", "at", "deadline")


class Resolved:
    """Options of one call, with nothing left open but what depends on its arguments."""

    __slots__ = ("_delay", "_due_at", "id", "is_unique_by_arguments", "options", "queue")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.queue: str = given.get("queue", "default")
        self.id: str | None = given.get("id")
        self._delay: float = given.get("delay", 0.0)
        self._due_at: datetime | None = given.get("at")
        unique = given.get("unique")
        self.is_unique_by_arguments: bool = unique is True
        values = {name: given[name] for name in _PLAIN if name in given}
        if isinstance(unique, str):
            values["unique"] = Unique(unique)
        elif isinstance(unique, Unique):
            values["unique"] = unique
        backoff = given.get("backoff", DEFAULT_BACKOFF)
        if not isinstance(backoff, Backoff):
            seconds = float(backoff)
            backoff = Backoff(seconds, factor=1.0, maximum=seconds, jitter=0.0)
        self.options = JobOptions(backoff=backoff, **values)

    def options_with(self, unique: Unique) -> JobOptions:
        """Return the options with a key."""
        return replace(self.options, unique=unique)

    def due(self) -> datetime | None:
        """Return the instant before which the job may not run; None: at once."""
        if self._delay > 0:
            return datetime.now(UTC) + timedelta(seconds=self._delay)
        return self._due_at


def job_options(**options: Unpack[JobOptionsDict]) -> Callable[[FunctionT], FunctionT]:
    """Give every job of a function these options, unless a call says otherwise.

    Stands above or below `@offload`. Without `@offload`, it makes a plain function one that can be
    enqueued.

    Args:
        **options: see `JobOptionsDict`; all but `id`, `at` and `deadline`, which are of one job.

    Raises:
        TypeError: unknown option, or wrong type.
        ValueError: an option is out of range.
    """
    given = checked(options, are_defaults=True)

    def decorate(function: FunctionT) -> FunctionT:
        setattr(plain(function), OPTIONS, given)
        return function

    return decorate


def resolve(*levels: Mapping[str, Any]) -> Resolved:
    """Return the options of a call: later levels go before earlier ones."""
    given: dict[str, Any] = {}
    for level in levels:
        if "delay" in level:
            given.pop("at", None)
        if "at" in level:
            given.pop("delay", None)
        given.update(level)
    return Resolved(given)


def checked(options: Mapping[str, Any], *, are_defaults: bool = False) -> dict[str, Any]:
    """Return options as they are, if they are right.

    Raises:
        TypeError: unknown option, or wrong type.
        ValueError: an option is out of range.
    """
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            raise TypeError(f"unknown option {name!r}; options of a job are {', '.join(_CHECKS)}")
        if are_defaults and (name in _OF_ONE_JOB or (name == "unique" and isinstance(value, str))):
            raise ValueError(f"{name} is of one job: give it to the call, jobs.options({name}=…)")
        check(name, value)
    if "delay" in options and "at" in options:
        raise ValueError("give delay or at, not both: each says when the job may begin")
    return dict(options)


def new_id() -> str:
    """Return a new id, a UUID of version 7: later ones sort behind earlier ones (RFC 9562)."""
    moment = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10))
    high = (moment & (1 << 48) - 1) << 16 | 0x7000 | noise >> 68 & 0xFFF
    low = 0x8 << 60 | noise & (1 << 60) - 1
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _check_number(name: str, value: object, *, above: float | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if above is not None and value <= above:
        raise ValueError(f"{name} must be above {above:g}, not {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, not {value!r}")


def _check_seconds(name: str, value: object) -> None:
    _check_number(name, value)


def _check_optional(name: str, value: object) -> None:
    if value is not None:
        _check_number(name, value)


def _check_timeout(name: str, value: object) -> None:
    if value is not None:
        _check_number(name, value, above=0.0)


def _check_integer(name: str, value: object, minimum: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if minimum is not None and value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, not {value!r}")


def _check_priority(name: str, value: object) -> None:
    _check_integer(name, value)


def _check_count(name: str, value: object) -> None:
    _check_integer(name, value, 0)


def _check_attempts(name: str, value: object) -> None:
    _check_integer(name, value, 1)


def _check_instant(name: str, value: object) -> None:
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime, not {value!r}")
    if value.tzinfo is None:
        raise ValueError(f"{name} must be an aware datetime, such as datetime.now(UTC): {value!r}")


def _check_deadline(name: str, value: object) -> None:
    if value is not None:
        _check_instant(name, value)


def _check_text(name: str, value: object, longest: int) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r}")
    if not 1 <= len(value) <= longest or not value.isprintable():
        raise ValueError(f"{name} must have 1 to {longest} printable characters: {value!r:.300}")


def _check_id(name: str, value: object) -> None:
    _check_text(name, value, _MAX_ID)


def _check_queue(name: str, value: object) -> None:
    _check_text(name, value, _MAX_NAME)


def _check_unique(name: str, value: object) -> None:
    if value is None or value is True:
        return
    key: object = value.key if isinstance(value, Unique) else value
    if not isinstance(key, str) or not key:
        raise TypeError(f"{name} must be a key, Unique(key, lifetime) or True, not {value!r}")
    if isinstance(value, Unique):
        _check_timeout("the lifetime of unique", value.lifetime)


def _check_backoff(name: str, value: object) -> None:
    if not isinstance(value, Backoff):
        _check_number(name, value)
        return
    _check_number(f"{name}.initial", value.initial)
    _check_number(f"{name}.maximum", value.maximum)
    _check_number(f"{name}.factor", value.factor)
    _check_number(f"{name}.jitter", value.jitter)
    if value.jitter > 1.0:
        raise ValueError(f"{name}.jitter must be a share from 0.0 to 1.0, not {value.jitter!r}")


_CHECKS: Final[dict[str, Callable[[str, object], None]]] = {
    "queue": _check_queue,
    "delay": _check_seconds,
    "at": _check_instant,
    "priority": _check_priority,
    "max_attempts": _check_attempts,
    "backoff": _check_backoff,
    "max_crashes": _check_count,
    "timeout": _check_timeout,
    "deadline": _check_deadline,
    "id": _check_id,
    "unique": _check_unique,
    "keep": _check_optional,
    "max_logs": _check_count,
}

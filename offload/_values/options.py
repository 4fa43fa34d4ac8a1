"""Options of calls and pools: frozen, checked where they enter, call before decorator and pool.

Named tuples and not dataclasses: a worker imports this with the module of the function, and
`dataclasses` alone takes as long as all of ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

    Progress = Callable[[float, float | None], object]

__all__ = [
    "INHERIT",
    "CallOptions",
    "CallOptionsDict",
    "Inherit",
    "ResolvedOptions",
    "check_callable",
    "check_integer",
    "check_name",
    "check_number",
    "check_type",
    "merge",
]


class Inherit:
    """Type of `INHERIT`: the option is not given here, the next outer level decides."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the name that docs use."""
        return "INHERIT"


INHERIT: Final = Inherit()


class CallOptionsDict(TypedDict, total=False):
    """Keywords of `Offloaded.options`."""

    timeout: float | None
    queue_timeout: float | None
    deadline: float | None
    priority: int
    max_crash_retries: int
    grace: float
    single_flight: bool
    on_progress: Progress | None
    cancel_on_disconnect: bool
    max_payload_bytes: int | None


class _CallOptions(NamedTuple):
    timeout: float | Inherit | None
    queue_timeout: float | Inherit | None
    deadline: float | None
    priority: int
    max_crash_retries: int
    grace: float
    single_flight: bool
    on_progress: Progress | None
    cancel_on_disconnect: bool
    max_payload_bytes: int | Inherit | None


class CallOptions(_CallOptions):
    """How one call is treated.

    Attributes:
        timeout: seconds that the function may run; None: no limit.
        queue_timeout: seconds that the call may wait for a worker; None: no limit.
        deadline: `time.monotonic()` instant by which the call must have ended; None: none.
        priority: larger runs first; equal ones in order of arrival.
        max_crash_retries: how many times a call is run again whose worker died under it.
        grace: seconds between asking an unwanted task to stop and ending its process.
        single_flight: whether identical calls that are under way at once share one run.
        on_progress: called on the event loop with what the function reports.
        cancel_on_disconnect: whether the call is stopped when the client of its HTTP request
            leaves, where the application watches for that.
        max_payload_bytes: size that the pickled arguments, or the result, may have; None: no limit.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        timeout: float | Inherit | None = INHERIT,
        queue_timeout: float | Inherit | None = INHERIT,
        deadline: float | None = None,
        priority: int = 0,
        max_crash_retries: int = 0,
        grace: float = 0.0,
        single_flight: bool = False,
        on_progress: Progress | None = None,
        cancel_on_disconnect: bool = True,
        max_payload_bytes: int | Inherit | None = INHERIT,
    ) -> Self:
        """Check and make."""
        check_number("timeout", timeout, above=0.0)
        check_number("queue_timeout", queue_timeout, minimum=0.0)
        check_number("deadline", deadline)
        check_number("grace", grace, minimum=0.0, optional=False)
        check_type("single_flight", single_flight, bool, "True or False")
        check_callable("on_progress", on_progress)
        check_type("cancel_on_disconnect", cancel_on_disconnect, bool, "True or False")
        check_integer("priority", priority)
        check_integer("max_crash_retries", max_crash_retries, minimum=0)
        if max_payload_bytes is not INHERIT:
            check_integer("max_payload_bytes", max_payload_bytes, minimum=1, optional=True)
        return super().__new__(
            cls,
            timeout,
            queue_timeout,
            deadline,
            priority,
            max_crash_retries,
            grace,
            single_flight,
            on_progress,
            cancel_on_disconnect,
            max_payload_bytes,
        )

    def resolve(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        max_payload_bytes: int | None = None,
    ) -> ResolvedOptions:
        """Return these options with what they inherit; the arguments are what a pool says."""
        inherited: dict[str, Any] = {
            "timeout": timeout,
            "queue_timeout": queue_timeout,
            "max_payload_bytes": max_payload_bytes,
        }
        own: dict[str, Any] = self._asdict()
        return ResolvedOptions(
            **{name: inherited[name] if value is INHERIT else value for name, value in own.items()}
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by keyword; INHERIT stays itself."""
        given = {name: value for name, value in self._asdict().items() if value is not INHERIT}
        return _rebuild, (given,)


class ResolvedOptions(NamedTuple):
    """Options of one call with nothing left to inherit."""

    timeout: float | None = None
    queue_timeout: float | None = None
    deadline: float | None = None
    priority: int = 0
    max_crash_retries: int = 0
    grace: float = 0.0
    single_flight: bool = False
    on_progress: Progress | None = None
    cancel_on_disconnect: bool = True
    max_payload_bytes: int | None = None


def _rebuild(given: dict[str, Any]) -> CallOptions:
    return CallOptions(**given)


def merge(options: CallOptions, changes: Mapping[str, Any]) -> CallOptions:
    """Return `options` with `changes`; unknown names are a TypeError that lists the known ones."""
    known = CallOptions._fields
    unknown = sorted(set(changes) - set(known))
    if unknown:
        message = f"unknown option {unknown[0]!r}; options of a call are {', '.join(known)}"
        raise TypeError(message)
    return CallOptions(**(options._asdict() | dict(changes)))


def check_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    optional: bool = True,
) -> None:
    """Raise unless `value` is a finite number in range (or None or INHERIT, where optional)."""
    if optional and (value is None or value is INHERIT):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        message = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(message)
    try:
        is_finite = math.isfinite(value)
    except OverflowError:  # an int that no float can hold: no clock could add it
        is_finite = False
    if not is_finite:
        message = f"{name} must be finite, not {value!r}; None means no limit"
        raise ValueError(message)
    if minimum is not None and value < minimum:
        message = f"{name} must be at least {minimum:g}, not {value!r}"
        raise ValueError(message)
    if above is not None and value <= above:
        message = f"{name} must be above {above:g}, not {value!r}; None means no limit"
        raise ValueError(message)


def check_name(name: str, value: object) -> None:
    """Raise unless `value` is a non-empty str."""
    if not isinstance(value, str) or not value:
        message = f"{name} must be a non-empty str, not {value!r}"
        raise TypeError(message)


def check_type(name: str, value: object, kind: type, what: str) -> None:
    """Raise unless `value` is a `kind`, which is called `what`."""
    if not isinstance(value, kind):
        message = f"{name} must be {what}, not {value!r}"
        raise TypeError(message)


def check_callable(name: str, value: object) -> None:
    """Raise unless `value` can be called, or is None."""
    if value is not None and not callable(value):
        message = f"{name} must be callable, not {value!r}"
        raise TypeError(message)


def check_integer(
    name: str, value: object, *, minimum: int | None = None, optional: bool = False
) -> None:
    """Raise unless `value` is an int of at least `minimum` (or None, where optional)."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        message = f"{name} must be an int, not {value!r}"
        raise TypeError(message)
    if minimum is not None and value < minimum:
        message = f"{name} must be at least {minimum}, not {value!r}"
        raise ValueError(message)

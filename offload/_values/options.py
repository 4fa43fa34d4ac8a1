"""Options of a call: frozen, checked where they enter, call before decorator before pool.

A new option of a call is a line of `ResolvedOptions` (name, type, default and check), one of
`CallOptionsDict` (name and type: from it type checkers know the keywords of `offload` and
`Offloaded.options`, and they have no way to derive the one from the other), and its meaning in the
docstring of `offload`.

Named tuples and not dataclasses: a worker imports this with the module of the function, and
`dataclasses` alone takes as long as all of ours.
"""

# Without `from __future__ import annotations`: the checks are read from the annotations.
import math
from collections.abc import Callable, Iterable
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NamedTuple,
    Self,
    TypedDict,
    Unpack,
)

__all__ = [
    "CALL_OPTIONS",
    "INHERIT",
    "NO_OPTIONS",
    "CallOptions",
    "CallOptionsDict",
    "Inherit",
    "ResolvedOptions",
    "check_callable",
    "check_integer",
    "check_name",
    "check_number",
    "check_type",
    "nearest",
    "unknown_option",
]

Progress = Callable[[float, float | None], object]


class Inherit:
    """Type of `INHERIT`: the option is not given here, the next outer level decides."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the name that the documentation uses."""
        return "INHERIT"

    def __reduce__(self) -> str:
        """Pickle and copy as the one object that it is."""
        return "INHERIT"


INHERIT: Final = Inherit()


def check_number(
    name: str,
    value: object,
    *,
    minimum: float | None = None,
    above: float | None = None,
    optional: bool = True,
) -> None:
    """Raise unless `value` is a finite number in range (or None, where optional)."""
    if optional and value is None:
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


def unknown_option(
    name: str, known: Iterable[str], *, what: str = "a call", hint: str | None = None
) -> TypeError:
    """Return the error for an option that does not exist.

    Args:
        name: as it was given.
        known: the options that exist here.
        what: what these are options of.
        hint: what to write instead; None: the nearest name is suggested.
    """
    known = tuple(known)
    if hint is None:
        near = nearest(name, known)
        hint = f"did you mean {near!r}?" if near else ""
    message = f"unknown option {name!r}: {hint} Options of {what} are {', '.join(known)}"
    return TypeError(message if hint else message.replace(":  Options", "; options"))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return which of the `known` names was probably meant, None if it is like none of them."""
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


class CallOptionsDict(TypedDict, total=False):
    """Keywords of `offload` and `Offloaded.options`: see `ResolvedOptions` for their meaning."""

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
    max_memory_bytes: int | None
    max_cpu_seconds: float | None


class _Check:
    """How the value of an option is checked, and whether it is inherited from the pool."""

    __slots__ = ("call", "inherits", "limits")

    def __init__(
        self, call: Callable[..., None], *, inherits: bool = False, **limits: object
    ) -> None:
        self.call = call
        self.inherits = inherits
        self.limits = limits


_BOOL = _Check(check_type, kind=bool, what="True or False")


class ResolvedOptions(NamedTuple):
    """Options of one call with nothing left to inherit; `offload` tells their meaning."""

    timeout: Annotated[float | None, _Check(check_number, above=0.0, inherits=True)] = None
    queue_timeout: Annotated[float | None, _Check(check_number, minimum=0.0, inherits=True)] = None
    deadline: Annotated[float | None, _Check(check_number)] = None
    priority: Annotated[int, _Check(check_integer)] = 0
    max_crash_retries: Annotated[int, _Check(check_integer, minimum=0)] = 0
    grace: Annotated[float, _Check(check_number, minimum=0.0, optional=False)] = 0.0
    single_flight: Annotated[bool, _BOOL] = False
    on_progress: Annotated[Progress | None, _Check(check_callable)] = None
    cancel_on_disconnect: Annotated[bool, _BOOL] = True
    max_payload_bytes: Annotated[
        int | None, _Check(check_integer, minimum=1, optional=True, inherits=True)
    ] = None
    max_memory_bytes: Annotated[int | None, _Check(check_integer, minimum=1, optional=True)] = None
    max_cpu_seconds: Annotated[float | None, _Check(check_number, above=0.0)] = None


CALL_OPTIONS: Final = ResolvedOptions._fields
_CHECKS: Final[dict[str, _Check]] = {
    # Evaluated by then: a named tuple keeps its annotations in every version.
    name: annotation.__metadata__[0]
    for name, annotation in ResolvedOptions.__annotations__.items()
}
_UNSAID: Final[dict[str, Any]] = ResolvedOptions._field_defaults | {
    name: INHERIT for name, check in _CHECKS.items() if check.inherits
}

if TYPE_CHECKING:

    class _Fields(tuple[Any, ...]):
        __slots__ = ()

        # What is said of an option, or INHERIT; only `resolve` makes a value to work with.
        def __getattr__(self, name: str, /) -> Any: ...

else:
    from collections import namedtuple

    _Fields = namedtuple("_Fields", CALL_OPTIONS)  # noqa: PYI024 - the fields of another, untyped


class CallOptions(_Fields):
    """How the calls of a function, or one call, are to be treated.

    Args:
        **given: see `ResolvedOptions`; what is not given has its default, or is the pool's.

    Raises:
        TypeError: an option is unknown, or has the wrong type.
        ValueError: an option is out of range.
    """

    __slots__ = ()

    def __new__(cls, **given: Unpack[CallOptionsDict]) -> Self:
        """Check and make."""
        said: dict[str, Any] = _UNSAID | dict(given)
        if len(said) != len(_UNSAID):
            raise unknown_option(next(name for name in given if name not in _UNSAID), CALL_OPTIONS)
        for name, value in given.items():
            check = _CHECKS[name]
            if not (check.inherits and value is INHERIT):
                check.call(name, value, **check.limits)
        return super().__new__(cls, *said.values())

    def merged(self, changes: CallOptionsDict) -> Self:
        """Return these options with `changes`, checked like any."""
        if not changes:
            return self
        said: dict[str, Any] = self.given() | dict(changes)
        return type(self)(**said)

    def given(self) -> dict[str, Any]:
        """Return what differs from saying nothing."""
        return {
            name: value
            for name, value in zip(CALL_OPTIONS, self, strict=True)
            if value != _UNSAID[name]
        }

    def resolve(self, **inherited: Unpack[CallOptionsDict]) -> ResolvedOptions:
        """Return what a call works with.

        Args:
            **inherited: the pool's value of each option that can be inherited.
        """
        values: dict[str, Any] = dict(inherited)
        return ResolvedOptions(
            *(
                values[name] if value is INHERIT else value
                for name, value in zip(CALL_OPTIONS, self, strict=True)
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name: another version of this may know other options."""
        return _rebuild, (self.given(),)


def _rebuild(given: CallOptionsDict) -> CallOptions:
    return CallOptions(**given)


NO_OPTIONS: Final = CallOptions()

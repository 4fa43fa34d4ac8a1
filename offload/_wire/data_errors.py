"""What a function raised, as data: made again where its class is known, by who reads it.

Which classes those are is for the reader to say. What the worker sends are names to look for in
that list, and what the exception is made of; nothing is found by them anywhere else.
"""

from __future__ import annotations

import builtins

from offload._wire.data_writer import NotDataError, encode_data
from offload._wire.exceptions import may_be_raised
from offload._wire.pickling import TooManyBytes
from offload._wire.raised import builtin_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

__all__ = ["described", "known_errors", "made_again"]

_MOST_BYTES = 1 << 20
# Names of the classes that an exception is an instance of.
_MOST_NAMES = 50
# What builtin classes keep in C, of which `__reduce__` tells beside their arguments.
_OF_BUILTINS = frozenset({"name", "path"})


def described(error: Exception) -> Any:
    """Return what an exception is made of; None if not all of that is data."""
    kind = type(error)
    if any(vars(base).get("__slots__") for base in kind.__mro__):
        return None
    try:
        _, parts, *rest = builtin_of(kind).__reduce__(error)
        attributes = dict(rest[0] or {}) if rest else {}
        names = [_name(base) for base in kind.__mro__ if issubclass(base, Exception)]
        made = names[:_MOST_NAMES], tuple(parts), tuple(error.args), attributes
        encode_data(made, limit=_MOST_BYTES)
    except (NotDataError, TooManyBytes):
        return None
    except BaseException:  # of its class
        return None
    return made


def known_errors(classes: Iterable[type[Exception]]) -> dict[str, type[Exception]]:
    """Return the classes that may be made again, by name: these, and those of Python itself."""
    found: list[Any] = [
        each
        for each in vars(builtins).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    found = [each for each in found if not issubclass(each, (StopIteration, StopAsyncIteration))]
    return {_name(each): each for each in (*found, *classes)}


def made_again(sent: Any, known: Mapping[str, type[Exception]]) -> Exception | None:
    """Return the exception that was described; None if its class is not known, or it is none.

    A subclass of a known class comes as that, but for those of Python itself: what is a
    `ValueError` among other things is not made one.
    """
    if type(sent) is not tuple or len(sent) != 4:  # noqa: PLR2004 - as `described` makes it
        return None
    names, parts, args, attributes = sent
    if (type(names), type(parts), type(args), type(attributes)) != (list, tuple, tuple, dict):
        return None
    kind = _class_of(names, known)
    if kind is None:
        return None
    try:
        error = _made(kind, parts, args, attributes)
    except Exception:
        return None
    return error if type(error) is kind and may_be_raised(error) else None


def _class_of(names: list[Any], known: Mapping[str, type[Exception]]) -> type[Exception] | None:
    for place, name in enumerate(names):
        if type(name) is not str:
            return None
        found = known.get(name)
        if found is not None and (place == 0 or found.__module__ != "builtins"):
            return found
    return None


def _made(
    kind: type[Exception], parts: tuple[Any, ...], args: tuple[Any, ...], attributes: dict[Any, Any]
) -> Exception | None:
    """Make it without its own `__init__`, as `offload._wire.raised` does."""
    builtin = builtin_of(kind)
    error: Exception = builtin.__new__(kind, *parts)
    builtin.__init__(error, *parts)
    error.args = args
    for name, value in attributes.items():
        if type(name) is not str or (name.startswith("__") and name != "__notes__"):
            return None
        if name in _OF_BUILTINS and hasattr(builtin, name):
            if not (value is None or type(value) is str):
                return None
            setattr(error, name, value)
        else:
            error.__dict__[name] = value
    return error


def _name(kind: type) -> str:
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__
    # A class of the main module is of another module in a worker.
    return f"{'__main__' if module == '__mp_main__' else module}.{kind.__qualname__}"

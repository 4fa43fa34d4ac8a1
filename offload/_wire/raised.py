"""What a function raised, pickled so that it arrives as it was, whatever its `__init__` takes.

An exception pickles as a call of its class with its `args`, and much of what is raised cannot be
made like that: `HTTPException(status_code=422)`, anything whose `__init__` has keyword-only or more
parameters than it passes on (cpython#79492). Worse, some can, and are another exception then: with
`super().__init__(f"no {name}")` the text comes back as "no no cat". So an exception that does not
say itself how it is pickled is made anew without its `__init__`: its class, its `args`, and its
attributes one by one. Those inside it, in a group or an attribute, likewise.
"""

from __future__ import annotations

import copyreg

from offload._wire.lean import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["builtin_of", "dump_raised"]

# How an exception is pickled that does not say so itself. What is written in C with more to it has
# a way of its own (OSError, ImportError), and so do classes of users that know better.
_PLAIN_WAYS = frozenset(
    {
        BaseException.__reduce__,
        OSError.__reduce__,
        ImportError.__reduce__,
        AttributeError.__reduce__,
    }
)


class _Sink:
    """Collects what a pickler writes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: Any) -> None:
        self.parts.append(bytes(data))


class _Pickler(pickle.Pickler):
    """Pickles exceptions without their `__init__`; as a last resort, whatever they say."""

    def __init__(self, sink: _Sink, *, is_last_resort: bool) -> None:
        super().__init__(sink, 5)
        self._is_last_resort = is_last_resort

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, BaseException):
            return NotImplemented
        kind = type(value)
        if kind.__module__ == "builtins" or not (self._is_last_resort or _is_plain(kind)):
            return NotImplemented
        # Of the builtin class that it stems from, which knows what it keeps in C: `OSError` a file
        # name, `ImportError` the name of a module.
        _, parts, *rest = builtin_of(kind).__reduce__(value)
        attributes: Any = object.__getstate__(value)
        own = value.__dict__
        kept = {name: part for name, part in (rest or [{}])[0].items() if name not in own}
        return _new, (kind, parts, value.args), (attributes, kept), None, None, _set_state


def _is_plain(kind: type[BaseException]) -> bool:
    return (
        kind.__reduce__ in _PLAIN_WAYS
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__setstate__ is BaseException.__setstate__
        and kind not in copyreg.dispatch_table
    )


def builtin_of(kind: type[BaseException]) -> Any:
    """Return the first class above that is none of a library or of a user."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _new(kind: type[BaseException], parts: tuple[Any, ...], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without calling what its class has of its own."""
    builtin = builtin_of(kind)
    error: BaseException = builtin.__new__(kind, *parts)
    builtin.__init__(error, *parts)
    error.args = args
    return error


def _set_state(error: BaseException, state: Any) -> None:
    attributes, kept = state
    slots: dict[str, Any] = {}
    if isinstance(attributes, tuple):
        attributes, slots = attributes
    error.__dict__.update(attributes or {})
    for name, value in {**kept, **slots}.items():
        setattr(error, name, value)


def dump_raised(error: Exception) -> bytes | None:
    """Pickle an exception; None if it would not arrive as what it is.

    It is unpickled here to find that out, where that costs one call, and not in the server.
    """
    for is_last_resort in (False, True):
        sink = _Sink()
        try:
            _Pickler(sink, is_last_resort=is_last_resort).dump(error)
            data = b"".join(sink.parts)
            if type(pickle.loads(data)) is type(error):
                return data
        except BaseException:  # noqa: S112 - whatever its class does
            continue
    return None

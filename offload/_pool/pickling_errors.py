"""Names the argument that does not cross, and where in it the culprit is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from offload._wire.exceptions import summary
from offload._wire.large import NeedsDescriptors
from offload._wire.pickling import dump_without_exits, dumps, pickled_size
from offload.errors import ArgumentError, FunctionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload._pool.invocation import Invocation

# How deep and wide an error message looks for the culprit.
_SEARCH_DEPTH = 4
_SEARCH_WIDTH = 1000
# Of the key of a mapping, in the path to the culprit.
_KEY_CHARACTERS = 50


def raise_argument_error(
    invocation: Invocation, meta: dict[str, Any] | None, error: Exception
) -> NoReturn:
    """Raise the error for arguments that do not pickle, naming the one that does not."""
    if isinstance(error, FunctionError):
        raise error
    target = invocation.target
    for name, value in _named(invocation):
        failure = _failure(value)
        if failure is None or (
            isinstance(failure, NeedsDescriptors) and not isinstance(error, NeedsDescriptors)
        ):
            continue
        path, culprit, failure = _descend(name, value, failure)
        where = f"argument {name!r}" if path == name else f"argument {name!r}, at {path},"
        message = (
            f"{target.name} did not run: {where} cannot be pickled: it is "
            f"{_describe(culprit)} ({failure}). Send plain data, and make it from that in the "
            "worker"
        )
        raise ArgumentError(message, function=target.name, parameter=name) from error
    for home, value in (meta or {}).get("context", {}).items():
        failure = _failure(value)
        if failure is not None:
            message = (
                f"{target.name} did not run: the value of context variable {home!r} cannot be "
                f"pickled: {failure}. Declare only variables that hold plain data"
            )
            raise ArgumentError(message, function=target.name) from error
    message = f"{target.name} did not run: its arguments cannot be pickled: {summary(error)}"
    raise ArgumentError(message, function=target.name) from error


def raise_size_error(invocation: Invocation, limit: int, *, has_descriptors: bool) -> NoReturn:
    """Raise the error for arguments that are too large, naming the largest one and its size."""
    target = invocation.target
    sizes: dict[str, int] = {}
    for name, value in _named(invocation):
        try:
            sizes[name] = dump_without_exits(pickled_size, value)
        except NeedsDescriptors:
            # Where files cross as descriptors they do not count, and elsewhere as what they hold.
            sizes[name] = 0 if has_descriptors else getattr(value, "size", 0)
        except Exception as error:  # noqa: BLE001 - whatever a reducer raises
            raise_argument_error(invocation, None, error)
    parameter = max(sizes, key=sizes.__getitem__, default=None)
    what = "the call itself is"
    if parameter is not None:
        what = f"argument {parameter!r} takes {sizes[parameter]:,} bytes pickled"
        if sizes[parameter] <= limit:
            what += f", and all of them {sum(sizes.values()):,}"
    message = (
        f"{target.name} did not run: {what}, more than max_payload_bytes ({limit:,}). "
        "Send less, in parts, or a file"
    )
    raise ArgumentError(message, function=target.name, parameter=parameter)


def _named(invocation: Invocation) -> Iterator[tuple[str, Any]]:
    names = invocation.target.parameters()
    for index, value in enumerate(invocation.arguments):
        yield (names[index] if index < len(names) else f"*{index}"), value
    yield from invocation.keywords.items()


def _failure(value: Any) -> Exception | None:
    try:
        dump_without_exits(dumps, value)
    except Exception as error:  # noqa: BLE001 - whatever a reducer raises
        return error
    return None


def _descend(path: str, value: Any, failure: Exception) -> tuple[str, Any, Exception]:
    """Follow the culprit into containers and attributes, as far as it can be seen."""
    for _ in range(_SEARCH_DEPTH):
        for step, part in _parts(value):
            inner = _failure(part)
            if inner is not None:
                path, value, failure = path + step, part, inner
                break
        else:
            break
    return path, value, failure


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for _, (key, part) in zip(range(_SEARCH_WIDTH), value.items(), strict=False):
            yield f"[{_shown(key)}]", part
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, part in zip(range(_SEARCH_WIDTH), value, strict=False):
            yield f"[{index}]", part
    elif not isinstance(value, type) and not callable(value):
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in [*getattr(value, "__dict__", ()), *slots][:_SEARCH_WIDTH]:
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _shown(key: object) -> str:
    """Return a key as it is written, or what it is if it cannot say."""
    try:
        return repr(key)[:_KEY_CHARACTERS]
    except BaseException:  # noqa: BLE001 - of whatever class
        return f"<{type(key).__name__}>"


def _describe(value: Any) -> str:
    kind = type(value)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    qualname = getattr(value, "__qualname__", None)
    return f"{name} {qualname!r}" if isinstance(qualname, str) else f"a {name}"

"""What of an exception crosses a process border: its text, always; itself, where that is safe."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["may_be_raised", "message_of", "summary", "trace", "type_name"]

# How much of a repr goes into an error's text; enough to recognise a value, not to leak a table.
_REPR_CHARACTERS = 200


def may_be_raised(error: object) -> TypeGuard[Exception]:
    """Return whether an exception may be raised in the server as it is.

    SystemExit and its like would end it, asyncio's CancelledError would cancel what it meets, and
    the end of an iteration would become a RuntimeError of the coroutine that passes it on (PEP
    479). A class may be such a thing beside being an Exception.
    """
    if not isinstance(error, Exception) or isinstance(
        error, (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, StopAsyncIteration)
    ):
        return False
    asyncio = sys.modules.get("asyncio")
    return asyncio is None or not isinstance(error, asyncio.CancelledError)


def trace(error: BaseException) -> str:
    """Return the formatted traceback, whatever the exception's own methods do."""
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except BaseException as failure:
        return f"{type_name(error)}: its traceback cannot be formatted ({failure!r})\n"


def type_name(error: BaseException) -> str:
    """Return `module.qualname` of the class, without the module for builtins."""
    kind = type(error)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """Return `str(error)`, cut, whatever `__str__` does."""
    try:
        return str(error)[:_REPR_CHARACTERS]
    except BaseException:
        return ""


def summary(error: BaseException) -> str:
    """Return type and text in one line."""
    message = message_of(error)
    return f"{type_name(error)}: {message}" if message else type_name(error)

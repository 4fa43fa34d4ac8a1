"""Sends log records to the parent, whose handlers know what to do with them.

Imported only where `logging` has been imported already, by the function's module or by whoever.
"""

from __future__ import annotations

import logging
import sys

from offload._child import context
from offload._wire.lean import pickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["RelayHandler", "dump_fields", "install", "keep", "restore"]

_MESSAGE_CHARACTERS = 16 * 1024
# With all of its fields. The parent's event loop receives it, though it does not unpickle it.
_RECORD_BYTES = 192 * 1024
# What is left of one that has too many fields for that.
_NEEDED = (
    "name",
    "levelno",
    "levelname",
    "msg",
    "args",
    "exc_info",
    "exc_text",
    "stack_info",
    "created",
    "msecs",
    "process",
    "processName",
    "thread",
    "threadName",
    "pathname",
    "filename",
    "module",
    "lineno",
    "funcName",
    "offload_pid",
    "offload_function",
)
_PLAIN = frozenset({str, int, float, bool, type(None)})


class RelayHandler(logging.Handler):
    """Hands each record, as plain data, to `send`."""

    def __init__(
        self, send: Callable[[bytes], object], dump: Callable[[dict[str, Any]], bytes]
    ) -> None:
        super().__init__()
        self._send = send
        self._dump = dump
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            fields = dict(record.__dict__)
            # What does not pickle is made text here, as logging.handlers.QueueHandler does.
            fields["msg"] = _cut(record.getMessage())
            fields["args"] = None
            if record.exc_info:
                fields["exc_text"] = _cut(
                    record.exc_text or self._formatter.formatException(record.exc_info)
                )
            fields["exc_info"] = None
            fields["stack_info"] = _cut(record.stack_info) if record.stack_info else None
            fields["offload_pid"] = record.process
            task = context.task_context()
            if task is not None:
                fields["offload_function"] = task.function
            self._send(self._dump(fields))
        except Exception:
            self.handleError(record)


def _pickle(fields: dict[str, Any], /) -> bytes:
    data = pickle.dumps(fields, 5)
    for value in fields.values():
        if type(value) not in _PLAIN:
            # Much that pickles does not unpickle, and the parent could not ask for more.
            pickle.loads(data)
            break
    return data


def dump_fields(fields: dict[str, Any], dump: Callable[[dict[str, Any]], bytes] = _pickle) -> bytes:
    """Return the fields of a record as they cross, as texts where they do not, and bounded."""
    try:
        data = dump(fields)
        if len(data) <= _RECORD_BYTES:
            return data
    except Exception:
        data = b""
    # Some `extra` does not cross, or is huge: its text is better than no record at all, and less of
    # it is better than none. The parent takes no frame that is larger.
    plain: dict[str, Any] = {}
    for most in (_MESSAGE_CHARACTERS, _MESSAGE_CHARACTERS // 16):
        plain = {_cut(name, most): _plain(value, most) for name, value in fields.items()}
        data = dump(plain)
        if len(data) <= _RECORD_BYTES:
            return data
    return dump({name: plain[name] for name in _NEEDED if name in plain})


def _plain(value: Any, most: int) -> Any:
    if type(value) not in _PLAIN or (type(value) is int and value.bit_length() > most):
        try:
            value = repr(value)
        except Exception as error:
            value = f"<{type(value).__name__}, whose repr failed: {type(error).__name__}>"
    return _cut(value, most) if isinstance(value, str) else value


def _cut(text: str, most: int = _MESSAGE_CHARACTERS) -> str:
    return text if len(text) <= most else text[:most] + " … (cut)"


def install(
    send: Callable[[bytes], object],
    levels: dict[str, int],
    dump: Callable[[dict[str, Any]], bytes] = dump_fields,
) -> RelayHandler:
    """Relay the records of this process, and return what does so.

    Args:
        send: sends one record to the parent.
        levels: the parent's level of each logger that has one of its own; "" is the root.
        dump: makes what is sent of the fields of a record.
    """
    root = logging.getLogger()
    # Handlers that a module of the user adds stay; one that the parent has as well would show a
    # record twice, but only if it is added at import, which libraries do not do.
    handler = RelayHandler(send, dump)
    root.addHandler(handler)
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET or logger is root:
            logger.setLevel(level)
    return handler


def restore(relay: RelayHandler, before: list[logging.Handler] | None) -> None:
    """Put the handlers of the root back where a module has replaced them as it was imported.

    A module that configures logging when it is imported (`dictConfig`, `basicConfig(force=True)`)
    does so for the server. Its handlers are there; here they would write to the same files, and
    the server's other handlers would see nothing. What a function does is meant for the worker, and
    stays; for an initializer, see `keep`.

    Args:
        relay: ours.
        before: the handlers before the import; None: it was the one that imported `logging`.
    """
    root = logging.getLogger()
    before = [relay] if before is None else before
    if relay in before and relay not in root.handlers:
        for other in root.handlers[:]:
            root.removeHandler(other)
            if other not in before:
                other.close()
        for handler in before:
            root.addHandler(handler)


def keep(relay: RelayHandler, *, is_shown: bool) -> None:
    """Put our handler back where an initializer has set up logging, which removes all others.

    Args:
        relay: ours.
        is_shown: whether the server shows on a console what it logs: then this process does not,
            or each record would be there twice.
    """
    root = logging.getLogger()
    if relay in root.handlers:
        return
    root.addHandler(relay)
    for handler in root.handlers[:]:
        stream = getattr(handler, "stream", None)
        if is_shown and stream is not None and stream in (sys.stdout, sys.stderr):
            root.removeHandler(handler)

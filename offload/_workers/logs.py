"""Log records of workers, handled by the loggers and handlers of this process."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from offload._wire.pickling import without_exits

if TYPE_CHECKING:
    from collections.abc import Callable

    Refuse = Callable[[str], object]

__all__ = ["has_console", "log_levels", "log_safely", "relay"]

_logger = logging.getLogger("offload.workers")

# What workers are told fits into the buffer of a socket that nobody reads yet.
_MOST_LEVELS = 1000
# Of records that wait for the handlers of this process.
_MOST_BYTES = 32 << 20
# A thread is not made anew for each record; arbitrary, does not matter much.
_LINGER_SECONDS = 0.2


def log_safely(
    logger: logging.Logger,
    level: int,
    message: str,
    *arguments: object,
    exc_info: bool | BaseException | None = False,
    extra: dict[str, object] | None = None,
) -> None:
    """Log from within the machinery: what a handler of the user raises must not stop that."""
    with contextlib.suppress(Exception):
        # Two frames are between the caller and logging.
        log = partial(logger.log, exc_info=exc_info, extra=extra, stacklevel=3)
        without_exits(log, level, message, *arguments)


def log_levels() -> dict[str, int]:
    """Return the level of each logger that has one of its own, up to a thousand; "" is the root."""
    levels = {"": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
            if len(levels) >= _MOST_LEVELS:
                break
    return levels


def has_console() -> bool:
    """Return whether the root logger writes to this process's standard output or error."""
    # Those of the process's start among them: a test or a server may have put others in the place.
    consoles = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    return any(
        stream is not None and stream in consoles
        for stream in (getattr(handler, "stream", None) for handler in logging.root.handlers)
    )


class _Sent(NamedTuple):
    """A record as it came, and what has its worker killed if it must be data and is none."""

    data: bytes
    refuse: Refuse | None


class Relay:
    """Has the handlers of this process handle the records of workers, in the order of arrival.

    On a thread of its own, while there are any: a handler may take its time, or wait for a network,
    and neither an event loop nor the keeper, which ends and starts workers, may wait for it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        # Records, and what is to be called when all before it have been handled.
        self._waiting: deque[_Sent | Callable[[], object]] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def post(self, records: list[bytes], refuse: Refuse | None) -> None:
        """Have records handled; those for which there is no room are counted and dropped.

        Args:
            records: of one worker, as they came.
            refuse: has that killed for what is no data; None: it sends pickles.
        """
        with self._changed:
            for data in records:
                if self._waiting_bytes + len(data) > _MOST_BYTES:
                    self._dropped += 1
                else:
                    self._waiting_bytes += len(data)
                    self._waiting.append(_Sent(data, refuse))
            self._wake()

    def when_handled(self, callback: Callable[[], object]) -> None:
        """Call back, on whatever thread, when everything that waits now has been handled."""
        with self._changed:
            if self._thread is not None:
                self._waiting.append(callback)
                self._wake()
                return
        callback()

    def forget(self) -> None:
        """Drop everything without touching it: this is a forked copy of the process."""
        self.__init__()  # type: ignore[misc]

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="offload-logs", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: the next record tries again
                return
            self._thread = thread
        else:
            self._changed.notify()

    def _run(self) -> None:
        while (following := self._next()) is not None:
            # What a handler raises, `sys.exit()` included, costs its record and no other.
            try:
                if isinstance(following, _Sent):
                    _handle(*following)
                else:
                    following()
            except BaseException:  # noqa: BLE001 - it is logged
                log_safely(  # by the same handler
                    _logger,
                    logging.ERROR,
                    "a handler failed with a log record of a worker",
                    exc_info=True,
                )
            if isinstance(following, _Sent):
                with self._changed:
                    self._waiting_bytes -= len(following.data)

    def _next(self) -> _Sent | Callable[[], object] | None:
        with self._changed:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            with contextlib.suppress(BaseException):
                _logger.warning(
                    "%d log records of workers were dropped: the handlers of this process take "
                    "longer than the workers take to log",
                    dropped,
                )
        with self._changed:
            if not self._waiting and not self._changed.wait_for(
                lambda: self._waiting, _LINGER_SECONDS
            ):
                self._thread = None
                return None
            return self._waiting.popleft()


# What every worker has to say, and is said once.
_said: set[str] = set()
_MOST_SAID = 1000


def _is_first(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    if text in _said:
        return False
    if len(_said) >= _MOST_SAID:
        _said.clear()
    _said.add(text)
    return True


def _handle(data: bytes, refuse: Refuse | None) -> None:
    """Handle a record that a worker has sent, as if it had been made here."""
    try:
        name, record = _unpickled(data) if refuse is None else _read(data, refuse)
        if getattr(record, "offload_once", False) and not _is_first(record):
            return
    except Exception:
        how = "unpickled" if refuse is None else "read"
        _logger.exception("a log record of a worker cannot be %s here, and is lost", how)
        return
    logger = logging.getLogger(name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _unpickled(data: bytes) -> tuple[str, logging.LogRecord]:
    record = logging.makeLogRecord(without_exits(pickle.loads, data))
    return record.name, record


def _read(data: bytes, refuse: Refuse) -> tuple[str, logging.LogRecord]:
    from offload._wire.data_reader import DataError
    from offload._workers.data_logs import known_name, record_of

    try:
        record = record_of(data)
    except DataError as error:
        refuse(f"it sent a log record that is no data: {error}")
        raise
    return known_name(record.name), record


relay = Relay()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=relay.forget)

"""Log records of workers, handled by the loggers and handlers of this process."""

from __future__ import annotations

import logging
import pickle

__all__ = ["log_levels", "relay", "relay_all"]

_logger = logging.getLogger("offload.workers")


def log_levels() -> dict[str, int]:
    """Return the level of each logger that has one of its own; "" is the root."""
    levels = {"": logging.root.level}
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
    return levels


def relay(data: bytes) -> None:
    """Handle a record that a worker has sent, as if it had been made here."""
    try:
        record = logging.makeLogRecord(pickle.loads(data))
    except Exception:
        _logger.exception("a log record of a worker cannot be unpickled here, and is lost")
        return
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def relay_all(records: list[bytes]) -> None:
    """Handle records in the order in which they came."""
    for data in records:
        try:
            relay(data)
        except Exception:
            # As `logging` does with a handler that fails: the record is lost, and no other.
            _logger.exception("a handler failed with a log record of a worker")

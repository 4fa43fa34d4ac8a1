"""Log records that come as data and are not believed: each field is of the type that it must be."""

from __future__ import annotations

import logging
from typing import Any

from offload._wire.data_reader import DataError, read_data
from offload._wire.pickling import MemorySource

__all__ = ["known_name", "record_of"]

# What formatters and handlers count on, by the types of the values.
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "msg": (str,),
    "levelname": (str,),
    "levelno": (int,),
    "created": (float,),
    "msecs": (float,),
    "pathname": (str,),
    "filename": (str,),
    "module": (str,),
    "lineno": (int,),
    "funcName": (str, type(None)),
    "args": (type(None),),
    "exc_info": (type(None),),
    "exc_text": (str, type(None)),
    "stack_info": (str, type(None)),
}
_MOST_NAME = 500
# Each name that is new makes a logger, which is there for good.
_MOST_NEW_NAMES = 1000
# From 1970 to 9999: what can be shown as a date.
_MOST_SECONDS = 253_402_300_799.0


def record_of(data: bytes) -> logging.LogRecord:
    """Return the record that a worker has sent.

    Raises:
        DataError: no worker of ours would have sent it.
        ValueError: a field is not what formatters and handlers count on.
    """
    _, fields = read_data(MemorySource(data))
    if type(fields) is not dict:
        raise DataError("a log record is no dict")
    for name, kinds in _TYPES.items():
        if type(fields.get(name)) not in kinds:
            raise ValueError(f"field {name!r} of the record is {fields.get(name)!r:.50}")
    if not 0.0 <= fields["created"] <= _MOST_SECONDS:
        raise ValueError("the record is of no time")
    record = logging.makeLogRecord({})
    record.__dict__.update({name: fields[name] for name in fields if _is_field(name)})
    return record


def _is_field(name: Any) -> bool:
    # What a record can do must not be hidden by what it says.
    return type(name) is str and not hasattr(logging.LogRecord, name)


def known_name(name: str) -> str:
    """Return the name of the logger for a record: one that is there, or one that may be made."""
    known = logging.root.manager.loggerDict
    if name in known or (len(name) <= _MOST_NAME and len(known) < _MOST_NEW_NAMES):
        return name
    name = name[:_MOST_NAME]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or "root"

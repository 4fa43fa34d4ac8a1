"""Names of ours as BullMQ can have them.

BullMQ builds keys of names with colons between them, and counts up ids by itself: a queue with a
colon, a job `wait` or a job `7` would meet other keys. Such names are kept with some characters as
%XX, and are as they were for everybody here. Ordinary names are the same on both sides.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

__all__ = ["from_bullmq", "raw_id", "to_bullmq"]

_ORDINARY: Final = re.compile(r"[^%:]*").fullmatch
_COUNTED: Final = re.compile(r"[0-9]+").fullmatch
# Keys of a queue, https://docs.bullmq.io/ and `bullmq.queue_keys`; a job must not be named so.
_TAKEN: Final = frozenset(
    {
        "active",
        "completed",
        "de",
        "delayed",
        "dn",
        "events",
        "failed",
        "id",
        "limiter",
        "marker",
        "meta",
        "metrics",
        "o",
        "paused",
        "pc",
        "prioritized",
        "priority",
        "repeat",
        "stalled",
        "stalled-check",
        "wait",
        "waiting-children",
    }
)


def to_bullmq(name: str) -> str:
    """Return how BullMQ has the name of a queue or job."""
    if not _ORDINARY(name):
        name = name.replace("%", "%25").replace(":", "%3A")
    elif name in _TAKEN or _COUNTED(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    return name


def from_bullmq(name: str) -> str:
    """Return the name that `to_bullmq` has made `name` of; or `name`, if it is of BullMQ's own."""
    if "%" in name:
        plain = unquote(name)
        if to_bullmq(plain) == name:
            return plain
    return name


def raw_id(job_id: str) -> str:
    """Return the id that a program of BullMQ's may have given a job, if that differs, or empty."""
    return "" if to_bullmq(job_id) == job_id else job_id

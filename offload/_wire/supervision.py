"""What a server and the supervisor of its workers say to each other.

    server ── settings, then commands ──► supervisor
    server ◄───────── events ──────────── supervisor

Commands and events have a fixed size. START brings two descriptors, the worker's socket and its
page; STARTED brings one, that of the worker's process.

Each command is followed by PING. A supervisor that does not answer in time is stopped, or hangs.
"""

from __future__ import annotations

import marshal

from offload._wire.lean import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A command: what, which worker, argument.
COMMAND = struct.Struct("<BxxxIi")
START = 1
SIGNAL = 2
# Begin anew, with nothing loaded; to no worker.
RENEW = 3
# Of no worker: the answer, PONG with the same number, tells that all before it was done.
PING = 4
# An event: what, which worker, process id, and what is said below.
EVENT = struct.Struct("<BxxxIii")
UP = 1
# The last word is 1 if a descriptor of the process comes with it (pidfd_open(2)), else 0.
STARTED = 2
# The wait status.
ENDED = 3
# The number of the error (errno).
NOT_STARTED = 4
# Of no worker: the index of an entry of `preload` that every worker loads for itself, and, in the
# last word, the number of threads that were found running.
NOT_SHARED = 5
PONG = 6

# What the processes of a worker are known by, its number after it: as a mapping of its page of
# shared memory, which a fork keeps.
PAGE_LABEL = "offload-worker-"

LENGTH = struct.Struct("<I")


def pack_settings(settings: dict[str, Any]) -> bytes:
    """Return what the supervisor expects first: its settings, with their length before them."""
    data = marshal.dumps(_plain(settings))
    return LENGTH.pack(len(data)) + data


def _plain(value: Any) -> Any:
    """Return a value as its builtin type: members of enumerations and the like are subclasses."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, int):
        return int(value)
    return str.__str__(value) if isinstance(value, str) else str(value)

"""Whether a process that does not answer is slow, stopped, or hangs: what the kernel says of it."""

from __future__ import annotations

import enum

__all__ = ["Doing", "doing"]


class Doing(enum.Enum):
    """What a process is doing."""

    COMPUTING = "computing"
    """It has a core, or waits for one, or for a disk: it is slow, as the machine is."""

    WAITING = "waiting"
    """For something that is not what it was sent, since that has come."""

    STOPPED = "stopped"
    """By a signal or a debugger."""

    ENDED = "ended"
    """It is no more."""

    UNKNOWN = "unknown"
    """This system does not tell."""


_STATES = {
    "R": Doing.COMPUTING,
    "D": Doing.COMPUTING,
    "S": Doing.WAITING,
    "I": Doing.WAITING,
    "T": Doing.STOPPED,
    "t": Doing.STOPPED,
    "Z": Doing.ENDED,
    "X": Doing.ENDED,
}


def doing(pid: int | None) -> Doing:
    """Return what the main thread of a process is doing.

    Source:
        proc_pid_stat(5), field 3, behind the name, which may have anything in it.
    """
    if pid is None:
        return Doing.UNKNOWN
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0].decode()
    except ProcessLookupError:
        return Doing.ENDED
    except (OSError, IndexError):
        return Doing.UNKNOWN
    return _STATES.get(state, Doing.UNKNOWN)

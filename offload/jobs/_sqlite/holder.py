"""Who keeps writers waiting: the process that has the turn, or SQLite's lock, as Linux tells it.

A process that is stopped in the middle of a transaction (SIGSTOP, a debugger, a paused container)
holds up all others on the file, for as long as it stands still. Nobody can take the lock from it,
but an operator who knows its number can let it go on, or end it.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["holder"]

# Of the first bytes of the shared memory, the one that whoever writes has locked.
# https://sqlite.org/walformat.html#write_lock
_WRITE_LOCK: Final = "120"
_STOPPED: Final = "Tt"
_MAX_COMMAND: Final = 80


def holder(path: str) -> str:
    """Return who writes to the file now, in words; empty: nobody does, or it is not known."""
    pid = _pid(path)
    if pid is None:
        return ""
    if pid <= 0:
        return "a process of another container"
    command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    if len(command) > _MAX_COMMAND:
        command = command[:_MAX_COMMAND] + "…"
    tail = f", which is stopped (kill -CONT {pid} lets it go on)" if _is_stopped(pid) else ""
    return f"process {pid} ({command}){tail}"


def _is_stopped(pid: int) -> bool:
    # Its name is in parentheses and may hold any character. proc_pid_stat(5)
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].strip()[:1] in tuple(_STOPPED)


def _pid(path: str) -> int | None:
    turn, memory = _place(path + "-turn"), _place(path + "-shm")
    # "1: FLOCK  ADVISORY  WRITE 4711 fe:00:12345 0 EOF"; who waits for a lock has "->" there.
    for line in _read("/proc/locks").splitlines():
        words = line.split()
        if "->" in words or len(words) < 7:  # noqa: PLR2004 - up to the start of the range
            continue
        _, kind, _, mode, pid, place, start, *_ = words
        has_turn = kind == "FLOCK" and place == turn
        has_lock = kind in ("POSIX", "OFDLCK") and place == memory and start == _WRITE_LOCK
        if mode == "WRITE" and (has_turn or has_lock):
            return int(pid)
    return None


def _place(path: str) -> str:
    """Return the device and the inode of a file as `/proc/locks` has them."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""  # not Linux, or gone meanwhile

"""The processes below a worker: how they are found and ended with it."""

from __future__ import annotations

import os

from offload._child.os_priority import hasten
from offload._wire.lean import signal
from offload._wire.supervision import PAGE_LABEL

__all__ = ["MARK", "children", "kill_group", "kill_tree", "kill_worker", "tree", "workers_above"]

# In the environment of a worker, its number as the value: an exec keeps it, and what a worker
# starts inherits it.
MARK = "OFFLOAD_WORKER"


def workers_above(pid: int) -> set[int]:
    """Return the numbers of the workers that a process descends from; none where it hides that."""
    numbers: set[int] = set()
    for name, mark, end in (("maps", PAGE_LABEL, b" "), ("environ", f"{MARK}=", b"\0")):
        try:
            with open(f"/proc/{pid}/{name}", "rb") as file:
                _, found, rest = file.read().partition(mark.encode())
            if found:
                numbers.add(int(rest.partition(end)[0]))
        except (OSError, ValueError):
            continue
    return numbers


def children(pid: int | None = None) -> list[int]:
    """Return the children of a process, by default of this one; none where that cannot be told."""
    pid = pid or os.getpid()
    found: list[int] = []
    try:
        # The kernel has them by the thread that forked them.
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except (OSError, ValueError):  # it has ended
            continue
    return found


def tree(pid: int) -> list[int]:
    """Return a process and all below it."""
    # One after the other, not one inside of the other: a task may have made a chain that is longer
    # than Python's stack is deep. And each once, since a number may come again meanwhile.
    whole = {pid: None}
    following = [pid]
    while following:
        fresh = [child for child in children(following.pop()) if child not in whole]
        whole |= dict.fromkeys(fresh)
        following += fresh
    return list(whole)


def kill_tree(pid: int) -> None:
    """Kill a process and all below it."""
    whole = tree(pid)
    for each in whole:
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            pass
    hasten(whole)


def kill_worker(pid: int, number: int) -> None:
    """Signal a worker and its group."""
    whole = tree(pid) if number == signal.SIGKILL else []
    if not kill_group(pid, number):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
    hasten(whole)


def kill_group(pid: int, number: int) -> bool:
    """Signal a process group; False if there is none."""
    try:
        os.killpg(pid, number)
    except OSError:  # no such group yet, or none any more; macOS: EPERM for a group of zombies
        return False
    return True

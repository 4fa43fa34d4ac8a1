"""What the machine did meanwhile: who used its CPUs, what was stolen from it, memory of a tree.

Read from `/proc`. Where there is none (or an empty one), every answer is None: not known, which is
not the same as undisturbed.

Source:
    https://man7.org/linux/man-pages/man5/proc_stat.5.html and proc_pid_stat.5.html.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from os.path import join
from typing import TYPE_CHECKING

from offload._cpu_time import STEAL, seconds_by_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Process", "Reading", "listeners", "pss_bytes", "read", "usage"]

# Positions among the seconds by kind. Guest time is in user time already.
_USER, _NICE, _SYSTEM, _IRQ, _SOFT_IRQ = 0, 1, 2, 5, 6
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table of processes.

    Attributes:
        parent: its parent's id.
        started: clock ticks between boot and its start; with the id it names one process.
        cpu_seconds: its own, and those of its children that have ended and been waited for.
    """

    parent: int
    started: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters of one instant.

    Attributes:
        cpus: of the machine.
        busy_seconds: CPU time of all processes since boot, the kernel's own included.
        steal_seconds: CPU time that the hypervisor gave to others.
        processes: by id.
    """

    cpus: int
    busy_seconds: float
    steal_seconds: float
    processes: dict[int, Process]

    def tree(self, roots: Iterable[int]) -> set[int]:
        """Return the ids of these processes, as far as they live, and of all below them."""
        children: dict[int, list[int]] = {}
        for pid, process in self.processes.items():
            children.setdefault(process.parent, []).append(pid)
        found: set[int] = set()
        waiting = [pid for pid in roots if pid in self.processes]
        while waiting:
            pid = waiting.pop()
            if pid not in found:
                found.add(pid)
                waiting += children.get(pid, [])
        return found


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds between two readings.

    Attributes:
        busy: of the whole machine.
        steal: taken by the hypervisor.
        tree: of the processes asked for.
    """

    busy: float
    steal: float
    tree: float


def read(root: str = "/proc") -> Reading | None:
    """Return the counters of now; None where they are not known."""
    try:
        with open(join(root, "stat"), encoding="ascii") as file:
            lines = [line for line in file if line.startswith("cpu")]
        ticks = os.sysconf("SC_CLK_TCK")
        values = seconds_by_kind(lines[0])
        busy = sum(values[index] for index in (_USER, _NICE, _SYSTEM, _IRQ, _SOFT_IRQ))
        steal = values[STEAL]
        names = [name for name in os.listdir(root) if name.isdecimal()]
    except (AttributeError, IndexError, OSError, ValueError):
        return None
    if not busy:
        return None  # Some sandboxes have the file, and only zeros in it.
    processes: dict[int, Process] = {}
    for name in names:
        try:
            with open(join(root, name, "stat"), encoding="utf-8", errors="replace") as file:
                # The name of the program, in parentheses, may hold anything, parentheses too.
                fields = file.read().rpartition(")")[2].split()
            spent = sum(int(value) for value in fields[11:15]) / ticks
            processes[int(name)] = Process(int(fields[1]), int(fields[19]), spent)
        except (IndexError, OSError, ValueError):
            continue  # It has just ended.
    return Reading(max(len(lines) - 1, 1), busy, steal, processes)


def usage(before: Reading, after: Reading, roots: Iterable[int]) -> Usage:
    """Return what was used between two readings; `roots` are the processes of `Usage.tree`."""
    roots = list(roots)
    # Both trees: a process whose parent has ended meanwhile is still one of ours.
    pids = before.tree(roots) | after.tree(roots)
    tree = 0.0
    for pid in pids:
        earlier, later = before.processes.get(pid), after.processes.get(pid)
        if later is None:
            # Its time is in its parent's by now.
            tree -= earlier.cpu_seconds if earlier is not None else 0.0
        elif earlier is not None and earlier.started == later.started:
            tree += later.cpu_seconds - earlier.cpu_seconds
        else:
            tree += later.cpu_seconds
    return Usage(
        after.busy_seconds - before.busy_seconds,
        after.steal_seconds - before.steal_seconds,
        max(tree, 0.0),
    )


def listeners(port: int, root: str = "/proc") -> list[int]:
    """Return the ids of the processes that listen on a TCP port here, as far as we may know."""
    inodes: set[str] = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            with open(join(root, table), encoding="ascii") as file:
                rows = [line.split() for line in file][1:]
        except (OSError, ValueError):
            continue
        for row in rows:
            if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{row[9]}]")
    if not inodes:
        return []
    found: list[int] = []
    for name in os.listdir(root):
        if not name.isdecimal():
            continue
        if inodes.intersection(_links(join(root, name, "fd"))):
            found.append(int(name))
    return found


def _links(folder: str) -> Iterator[str]:
    """Yield what the links in a folder point to; nothing of what may not be looked at."""
    with suppress(OSError):
        for name in os.listdir(folder):
            # One that has been closed meanwhile says nothing about the others.
            with suppress(OSError):
                yield os.readlink(join(folder, name))


def pss_bytes(roots: Iterable[int], root: str = "/proc") -> int | None:
    """Return the memory of a process tree, with shared pages counted once; None if not known."""
    reading = read(root)
    if reading is None:
        return None
    total = 0
    for pid in reading.tree(roots):
        try:
            with open(join(root, str(pid), "smaps_rollup"), encoding="ascii") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except (OSError, ValueError):
            continue
    return total * 1024 or None

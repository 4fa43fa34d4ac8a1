"""What the kernel tells of CPU time, as it is written in /proc and in cgroups. Linux; else None.

Source:
    proc_pid_schedstat(5): time on CPU, time waiting on a run queue, both in ns.
    proc_stat(5): time of all CPUs by kind, in clock ticks.
    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.stat) and
    https://docs.kernel.org/scheduler/sched-bwc.html (v1).
"""

from __future__ import annotations

import contextlib
import functools
import os

__all__ = [
    "STEAL",
    "number_in",
    "schedstat",
    "seconds_by_kind",
    "stolen_seconds",
    "throttled_seconds",
]

# Position of what the hypervisor gave to others, among the seconds by kind.
STEAL = 7
_CGROUPS = "/sys/fs/cgroup"


def schedstat(text: bytes) -> tuple[float | None, float | None]:
    """Return seconds on a CPU and seconds waited for one, from the text of a schedstat file."""
    try:
        cpu, waited, slices = map(int, text.split())
    except ValueError:
        return None, None
    # Where the kernel keeps no such statistics (schedstats are off), they are all zero.
    if not slices:
        return None, None
    return cpu / 1e9, waited / 1e9


def seconds_by_kind(line: str) -> list[float]:
    """Return the seconds of all CPUs, or of one, from a line "cpu" of /proc/stat."""
    ticks = os.sysconf("SC_CLK_TCK")
    return [int(value) / ticks for value in line.split()[1:]]


def stolen_seconds() -> float:
    """Return the seconds in which the host ran something else on CPUs of this machine."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            return seconds_by_kind(file.readline())[STEAL]
    except (AttributeError, IndexError, OSError, ValueError):
        return 0.0


def throttled_seconds() -> float | None:
    """Return the seconds in which a CPU quota has stopped our cgroup; None where there is none."""
    throttled = [
        number / unit
        for path, key, unit in _cgroup_files()
        if (number := number_in(path, key)) is not None
    ]
    return max(throttled, default=None)


@functools.cache
def _cgroup_files() -> list[tuple[str, bytes, float]]:
    """Return which file tells how long which cgroup was throttled, by what word, in which unit."""
    files: list[tuple[str, bytes, float]] = []
    for line in _text("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, key, unit = _CGROUPS, b"throttled_usec ", 1e6
        elif "cpu" in controllers.split(","):
            base, key, unit = f"{_CGROUPS}/cpu", b"throttled_time ", 1e9
        else:
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        # As with quotas: without a cgroup namespace the path is the host's, so try every level.
        for depth in range(len(parts), -1, -1):
            name = os.path.join(base, *parts[:depth], "cpu.stat")
            if number_in(name, key) is not None:
                files.append((name, key, unit))
    return files


def number_in(path: str, key: bytes) -> int | None:
    """Return the number that follows the first occurrence of a word in a file."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, "rb") as file:
        return int(file.read().partition(key)[2].split()[0])
    return None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError):
        return ""

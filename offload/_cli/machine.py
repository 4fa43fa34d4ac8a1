"""What the machine and the container give: CPUs, memory, ways to start processes, priorities."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from dataclasses import dataclass
from typing import Any

from offload._system import available_cpus, web_workers

__all__ = ["Machine", "memory_limit_bytes", "memory_total_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What processes of ours have at this instant.

    Attributes:
        python: version and implementation of the interpreter.
        platform: operating system and processor.
        has_gil: whether threads of this interpreter take turns.
        start_methods: ways to start a process that Python has here.
        can_fork: whether the pool's own workers, which a supervisor forks, are available.
        cpus_installed: CPUs of the machine.
        cpus_allowed: those that this process may use (affinity).
        cpus: what is left of them under the container's quota; fractional under a fractional one.
        web_workers: web server processes that share them.
        nice: our own niceness; None where there is none.
        scheduler: our own scheduling policy; None where there is none.
        memory_bytes: what may be used: the container's limit, else what the machine has; None where
            unknown.
        is_memory_limited: whether that is the container's limit.
    """

    python: str
    platform: str
    has_gil: bool
    start_methods: tuple[str, ...]
    can_fork: bool
    cpus_installed: int
    cpus_allowed: int
    cpus: float
    web_workers: int
    nice: int | None
    scheduler: int | None
    memory_bytes: int | None
    is_memory_limited: bool

    @property
    def has_quota(self) -> bool:
        """Whether the container may use less than all of the CPUs that it sees."""
        return self.cpus < self.cpus_allowed

    @classmethod
    def read(cls, *, root: str = "/", servers: int | None = None) -> Machine:
        """Return what is here now.

        Args:
            root: where `/proc` and `/sys` are; a test puts a fake tree here.
            servers: web server processes; None: as the environment says.
        """
        limit, total = memory_limit_bytes(root=root), memory_total_bytes(root=root)
        is_limited = limit is not None and (total is None or limit < total)
        gil: Any = getattr(sys, "_is_gil_enabled", lambda: True)
        return cls(
            python=f"{platform.python_version()} ({platform.python_implementation()})",
            platform=f"{platform.system()} {platform.release()} ({platform.machine()})",
            has_gil=bool(gil()),
            start_methods=tuple(multiprocessing.get_all_start_methods()),
            can_fork=hasattr(os, "fork"),
            cpus_installed=os.cpu_count() or 1,
            cpus_allowed=_affinity(),
            cpus=available_cpus(root=root),
            web_workers=web_workers() if servers is None else servers,
            nice=os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
            scheduler=os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None,
            memory_bytes=limit if is_limited else total,
            is_memory_limited=is_limited,
        )


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def memory_limit_bytes(*, root: str = "/") -> int | None:
    """Return the smallest memory limit from our cgroup up to the root of what we can see.

    Source:
        https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max) and
        https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes).
    """
    limits: list[int] = []
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, name = "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Every level, as for the quota of CPUs (`offload._system`): the path may be the host's.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            text = _read(os.path.join(root, base, *parts[:depth], name))
            if text.isdecimal():  # not "max"
                limits.append(int(text))
    return min(limits, default=None)


def memory_total_bytes(*, root: str = "/") -> int | None:
    """Return how much memory the machine has; None where unknown."""
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""

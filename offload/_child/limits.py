"""What the kernel lets one task take; imported only where a call has such a limit."""

from __future__ import annotations

import math
import os
import resource
import time

from offload._child.task import Failure
from offload._wire.frames import Kind

__all__ = ["Limits"]

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


class Limits:
    """The limits of one task, from now on until they are lifted.

    Memory that a process writes to counts (RLIMIT_DATA; Linux): not what is only reserved, as for
    the arenas of threads, nor files that are mapped, nor what it returns in shared memory. The
    kernel counts CPU time of all threads by whole seconds (RLIMIT_CPU), and ends the process with
    SIGXCPU.

    Args:
        max_memory_bytes: beyond what the process has now; None: no limit.
        max_cpu_seconds: beyond what it has used until now; None: no limit.

    Source:
        getrlimit(2); proc_pid_statm(5), field 6.
    """

    def __init__(self, max_memory_bytes: int | None, max_cpu_seconds: float | None) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._before: list[tuple[int, tuple[int, int]]] = []
        if max_memory_bytes is not None and (used := _data_bytes()) is not None:
            self._set(resource.RLIMIT_DATA, used + max_memory_bytes)
        if max_cpu_seconds is not None:
            self._set(resource.RLIMIT_CPU, math.ceil(time.process_time() + max_cpu_seconds))

    def _set(self, kind: int, most: int) -> None:
        soft, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, hard))
        self._before.append((kind, (soft, hard)))

    def lift(self) -> None:
        """Let the process take what it may without them."""
        while self._before:
            resource.setrlimit(*self._before.pop())

    def reply_for(self, failure: Failure) -> Failure:
        """Return the reply for a task that went wrong: another one if that is for a limit."""
        if self._max_memory_bytes is None or not issubclass(failure.of, MemoryError):
            return failure
        return Failure(Kind.OVER_MEMORY, (self._max_memory_bytes, failure.detail[-1]))


def _data_bytes() -> int | None:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[5]) * _PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return None

"""Functions that commands run on workers, to see them from inside."""

from __future__ import annotations

import os
import sys
import time

from offload._child.functions import find, plain
from offload._system import BLAS_VARIABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["consume", "look", "nothing", "seek", "timed"]


def nothing() -> None:
    """Do nothing: what a call of this takes is what every call takes."""


def timed(reference: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> float:
    """Return the seconds that a function runs in the worker; its result stays there."""
    function = plain(find(reference))
    started = time.perf_counter()
    consume(function(*arguments, **keywords))
    return time.perf_counter() - started


def consume(result: Any) -> int:
    """Run a generator to its end, if it is one; return how many items it made."""
    # By its own name, not inspect's: that module takes longer to import than most calls.
    if type(result).__name__ != "generator":
        return 0
    count = 0
    for _ in result:
        count += 1
    return count


def seek(reference: str) -> dict[str, Any]:
    """Find a function as a worker does for its first call.

    Returns:
        "seconds" that it took; "problem": why it is not to be found, empty if it is.
    """
    started = time.perf_counter()
    problem = ""
    try:
        function: Any = plain(find(reference))
        if not callable(function):
            problem = f"it is {type(function).__name__!r} in the worker, not a function"
    except Exception as error:  # noqa: BLE001 - NotFoundError, or whatever a property raises
        problem = str(error)
    return {"seconds": time.perf_counter() - started, "problem": problem}


def look() -> dict[str, Any]:
    """Return what this process has: priority, threads, memory, environment."""
    return {
        "pid": os.getpid(),
        "scheduler": os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None,
        "nice": os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else None,
        "threads": native_threads(),
        "resident_bytes": _resident_bytes(),
        "modules": len(sys.modules),
        "blas": {name: os.environ[name] for name in BLAS_VARIABLES if name in os.environ},
    }


def native_threads() -> int | None:
    """Return how many threads this process has, those of native code included; None: unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return None


def _resident_bytes() -> int | None:
    """Return our share of memory in bytes: what processes share is divided among them."""
    for path, label in (("/proc/self/smaps_rollup", "Pss:"), ("/proc/self/status", "VmRSS:")):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                for line in file:
                    if line.startswith(label):
                        return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            continue
    return None

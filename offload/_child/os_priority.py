"""What the kernel is asked for a process: its priority, and its end with that of its parent."""

from __future__ import annotations

import os
import sys

from offload._wire.lean import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "PR_SET_CHILD_SUBREAPER",
    "PR_SET_PDEATHSIG",
    "die_with_parent",
    "hasten",
    "load_prctl",
    "lower_priority",
    "prefer_when_out_of_memory",
]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def load_prctl() -> Callable[..., int]:
    """Return prctl(2), or a function that does nothing where there is none."""
    if sys.platform == "linux":
        try:
            # ctypes itself takes four times as long to import as this part of it, which is all
            # that a call with integers needs.
            import _ctypes

            whole_process: Any = None
            address = _ctypes.dlsym(_ctypes.dlopen(whole_process, 0), "prctl")
            return lambda *numbers: _ctypes.call_function(address, numbers)
        except (ImportError, OSError, AttributeError):
            pass
        try:
            import ctypes

            return ctypes.CDLL(None).prctl
        except (ImportError, OSError, AttributeError):
            pass
    return lambda *_: 0


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux)."""
    load_prctl()(PR_SET_PDEATHSIG, signal.SIGKILL)


def lower_priority(priority: str) -> None:
    """Give this process the OS priority of a worker; what the OS refuses is left as it is.

    Args:
        priority: "idle", "low" or "normal".

    Source:
        sched(7): a SCHED_IDLE task yields at once to any waking task of normal priority.
    """
    if priority == "normal":
        return
    try:
        if priority == "idle" and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            return
    except OSError:
        pass
    try:
        os.nice(19)
    except (OSError, AttributeError):
        pass


def prefer_when_out_of_memory() -> None:
    """Have the kernel end this process before its server, when memory runs out (Linux).

    As much as there is of it: a server that has most of the memory is the larger one, and would be
    ended first. What a task starts inherits it.

    Source:
        proc_pid_oom_score_adj(5).
    """
    try:
        # Bytes: an encoding may have to be imported, from wherever this process is.
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"1000")
    except OSError:  # no such file, or it is read-only here
        pass


def hasten(killed: list[int]) -> None:
    """Give processes that were killed the priority that they need to die of it.

    A process ends in its own time: at "idle", beside a few busy processes of normal priority on
    each core, that has taken four seconds, for which its memory is not free either. Without the
    right to raise priorities (CAP_SYS_NICE) this does nothing.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return
    for pid in killed:
        try:
            for thread in map(int, os.listdir(f"/proc/{pid}/task")):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, 0)
        except OSError:  # it has ended, or we may not
            continue

"""What the kernel says of the CPU time of worker processes. Linux; elsewhere nothing is known.

Source:
    proc_pid_schedstat(5): nanoseconds on a CPU, nanoseconds of waits on a run queue that are over.
    proc_pid_status(5): State, voluntary_ctxt_switches.
"""

from __future__ import annotations

import contextlib
import os

from offload._cpu_time import schedstat
from offload._decisions.starvation import ThreadTime

__all__ = ["times_of_threads"]

# More than that compute for themselves, as a rule, and one of them tells how all fare.
_MOST_THREADS = 16


def times_of_threads(pid: int) -> dict[int, ThreadTime]:
    """Return the times of those threads of a process that may compute, by native id.

    That is its main thread, which runs the functions, unless that sleeps: then others may work for
    it, those of numeric libraries for instance. Empty where nothing is known.
    """
    main = _time_of(pid, pid)
    if main is None:
        return {}
    found = {pid: main}
    if main.is_runnable:
        return found
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task")[:_MOST_THREADS]:
            thread = int(name)
            time = _time_of(pid, thread) if thread != pid else None
            if time is not None:
                found[thread] = time
    return found


def _time_of(pid: int, thread: int) -> ThreadTime | None:
    folder = f"/proc/{pid}/task/{thread}"
    try:
        ran, waited = schedstat(_read(f"{folder}/schedstat"))
        if ran is None or waited is None:
            return None
        status = _read(f"{folder}/status")
    except OSError:  # it has ended, or there is no such file
        return None
    sleeps = status.partition(b"\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)
    state = status.partition(b"\nState:")[2].lstrip()[:1]
    return ThreadTime(ran, waited, int(sleeps[0]) if sleeps else None, state == b"R")


def _read(path: str) -> bytes:
    # Not `open`: see `offload.dashboard._usage`. Each system call gives up the GIL.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)

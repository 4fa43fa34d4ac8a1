"""What the kernel says of our threads and of the machine. Linux; elsewhere None.

Source:
    proc_pid_schedstat(5): time on CPU, time waiting on a runqueue, both in ns.
    getrusage(2): `ru_nvcsw`. https://docs.kernel.org/accounting/psi.html and
    https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.stat).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import NamedTuple

from offload._cpu_time import number_in, schedstat, throttled_seconds

if sys.platform != "win32":
    import resource

__all__ = ["Figures", "Machine", "Meter", "Reading", "machine", "threads"]

_TASKS = "/proc/self/task"
_PRESSURE = "/proc/pressure/cpu"
_IS_LINUX = sys.platform == "linux"


class Figures(NamedTuple):
    """What one thread has used up to one instant; None where unknown.

    Attributes:
        cpu: seconds on a CPU.
        waited: seconds in which it could have run and was not let.
        switches: times that it gave up the CPU by itself, to wait for something.
        process: seconds that all threads of the process were on a CPU; only asked for where
            `waited` is not known.
    """

    cpu: float
    waited: float | None
    switches: int | None
    process: float | None = None


class Reading(NamedTuple):
    """Figures as they come, not parsed yet."""

    cpu: float
    schedstat: bytes
    switches: int | None
    process: float | None

    def parsed(self) -> Figures:
        """Return the figures."""
        return Figures(self.cpu, schedstat(self.schedstat)[1], self.switches, self.process)


class Meter:
    """Reads the figures of one thread.

    Made and, but for `seen_from_outside`, used on that thread: a reading costs two microseconds,
    since nothing is opened, parsed or locked for it.

    Args:
        thread: its native id.
    """

    def __init__(self, thread: int) -> None:
        self._thread = thread
        self._file: int | None = None
        if _IS_LINUX:
            with contextlib.suppress(OSError):
                self._file = os.open(f"{_TASKS}/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> Reading:
        """Return what the thread has used up to now."""
        if self._file is None:
            return Reading(time.thread_time(), b"", None, time.process_time())
        switches = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        return Reading(time.thread_time(), self._schedstat(), switches, None)

    def seen_from_outside(self) -> Reading | None:
        """Return the same, on any thread; None where that cannot be had."""
        text = self._schedstat()
        cpu, _ = schedstat(text)
        if cpu is None:
            return None
        switches = number_in(f"{_TASKS}/{self._thread}/status", b"\nvoluntary_ctxt_switches:")
        return Reading(cpu, text, switches, None)

    def _schedstat(self) -> bytes:
        if self._file is None:
            return b""
        try:
            return os.pread(self._file, 64, 0)
        except OSError:  # the thread has ended
            return b""

    def close(self) -> None:
        """Close its file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def threads() -> dict[int, tuple[float, float]]:
    """Return seconds on CPU and seconds waited of each thread of this process, by native id."""
    found: dict[int, tuple[float, float]] = {}
    if not _IS_LINUX:
        return found
    with contextlib.suppress(OSError):
        for name in os.listdir(_TASKS):
            # A thread may end under our eyes.
            with contextlib.suppress(OSError), open(f"{_TASKS}/{name}/schedstat", "rb") as file:
                cpu, waited = schedstat(file.read())
                if cpu is not None and waited is not None:
                    found[int(name)] = (cpu, waited)
    return found


class Machine(NamedTuple):
    """What all processes together, and our cgroup, have lost; None where unknown.

    Attributes:
        pressure: seconds in which some process of the machine waited for a CPU.
        throttled: seconds in which a CPU quota stopped our cgroup.
    """

    pressure: float | None
    throttled: float | None


def machine() -> Machine:
    """Return the figures of the machine and of our cgroup at this instant."""
    if not _IS_LINUX:
        return Machine(None, None)
    found = number_in(_PRESSURE, b"total=")
    return Machine(None if found is None else found / 1e6, throttled_seconds())

"""Memory and CPU of processes, from /proc. Elsewhere than on Linux nothing is known.

Source:
    proc_pid_stat(5): fields 14, 15 and 22 (utime, stime, starttime, in clock ticks), 24 (rss, in
    pages).
    proc_pid_smaps(5), smaps_rollup: Pss, each shared page divided by those who share it.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Meter", "Usage"]

# The kernel walks all pages of a process for its PSS, with the process's memory map locked: some
# milliseconds for a large one. Its change over seconds is what matters.
_PSS_SECONDS = 5.0


class Usage(NamedTuple):
    """What a process uses; None where unknown.

    Attributes:
        cpu: share of one core since the last look; 1.0 is all of it.
        rss_bytes: resident memory.
        pss_bytes: the same, with shared pages divided among those who share them.
    """

    cpu: float | None = None
    rss_bytes: int | None = None
    pss_bytes: int | None = None


class _Look(NamedTuple):
    # Which process it was: a pid comes again, with another start time.
    started: int
    at: float
    ticks: int
    pss_at: float
    pss: int | None


class Meter:
    """Looks at processes, again and again; on one thread at a time."""

    def __init__(self) -> None:
        self._looks: dict[int, _Look] = {}
        has_proc = os.path.exists("/proc/self/stat")
        self._page = os.sysconf("SC_PAGE_SIZE") if has_proc else 0
        self._tick = os.sysconf("SC_CLK_TCK") if has_proc else 0

    def read(self, pids: Iterable[int]) -> dict[int, Usage]:
        """Return the usage of those processes that there are."""
        found: dict[int, Usage] = {}
        looks: dict[int, _Look] = {}
        if self._page:
            for pid in pids:
                try:
                    found[pid], looks[pid] = self._look(pid)
                except (OSError, ValueError, IndexError):
                    # It has ended, perhaps while it was read.
                    continue
        self._looks = looks
        return found

    def _look(self, pid: int) -> tuple[Usage, _Look]:
        # After the name, which may have anything in it, spaces and parentheses included.
        fields = _read(pid, "stat").rpartition(b")")[2].split()
        now = time.monotonic()
        ticks, started = int(fields[11]) + int(fields[12]), int(fields[19])
        resident = int(fields[21]) * self._page
        last = self._looks.get(pid)
        if last is not None and last.started != started:
            last = None
        cpu = None
        if last is not None and now > last.at:
            # Clock ticks are coarse: over a short time they can come to more than there was.
            cpu = (ticks - last.ticks) / self._tick / (now - last.at)
        if last is not None and now - last.pss_at < _PSS_SECONDS:
            pss_at, pss = last.pss_at, last.pss
        else:
            pss_at, pss = now, _pss(pid)
        return Usage(cpu, resident, pss), _Look(started, now, ticks, pss_at, pss)


def _read(pid: int, name: str) -> bytes:
    # Not `open`, which makes system calls of its own: each of them gives up the GIL, and a busy
    # event loop has to be asked to give it back.
    file = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)


def _pss(pid: int) -> int | None:
    try:
        for line in _read(pid, "smaps_rollup").split(b"\n"):
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        # Kernels before 4.14 have no such file, and hardened ones do not show it.
        pass
    return None

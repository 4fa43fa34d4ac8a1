"""What a block of a program leaves behind: processes, threads, descriptors."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["Footprint", "LeakError", "no_leaks"]

_POLL_SECONDS = 0.01
# Threads that all pools share and that stay: idle, few, and without a descriptor of their own.
_LASTING_THREADS = ("offload-payload",)


class LeakError(AssertionError):
    """Something outlived the block of `no_leaks`; the text lists it."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What this process holds at one instant, to be compared with a later one.

    Attributes:
        children: process ids of its children, and of theirs; Linux only, elsewhere empty.
        threads: names of the threads of `offload`.
        descriptors: sockets, pipes, event queues and anonymous files that are open, as
            (number, target). Files with a name are the program's own business.
    """

    children: frozenset[int] = field(default_factory=frozenset)
    threads: frozenset[str] = field(default_factory=frozenset)
    descriptors: frozenset[tuple[int, str]] = field(default_factory=frozenset)

    @classmethod
    def now(cls) -> Self:
        """Return the footprint of this instant.

        The helper processes of `multiprocessing`, which stay for the life of a program, are left
        out with their descriptors.
        """
        helpers, theirs = _helpers_of_multiprocessing()
        threads = frozenset(
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith("offload-") and not thread.name.startswith(_LASTING_THREADS)
        )
        descriptors = frozenset(each for each in _descriptors() if each[0] not in theirs)
        return cls(frozenset(_descendants(os.getpid(), helpers)), threads, descriptors)

    def left_behind(self, *, within: float = 2.0) -> list[str]:
        """Return what is there now and was not then, in words; empty if all is gone in time.

        Args:
            within: seconds that processes and threads may take to end.
        """
        deadline = time.monotonic() + within
        while True:
            now = type(self).now()
            found = [
                *(f"child process {pid}: {_command(pid)}" for pid in now.children - self.children),
                *(f"thread {name}" for name in now.threads - self.threads),
                *(f"descriptor {fd}: {what}" for fd, what in now.descriptors - self.descriptors),
            ]
            if not found or time.monotonic() > deadline:
                return sorted(found)
            # Descriptors may hang on objects in a cycle, such as a traceback that a test has kept.
            gc.collect()
            time.sleep(_POLL_SECONDS)  # the end of a process that is not ours has no event


@contextlib.contextmanager
def no_leaks(*, within: float = 2.0) -> Generator[Footprint]:
    """Check that no process, thread or descriptor outlives the block.

    Args:
        within: seconds that processes and threads may take to end after it.

    Raises:
        LeakError: something did, and no other exception passes.
    """
    before = Footprint.now()
    yield before
    left = before.left_behind(within=within)
    if left:
        raise LeakError("left behind: " + "; ".join(left))


def _descendants(pid: int, helpers: set[int]) -> set[int]:
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    children = set(map(int, file.read().split())) - found - helpers
                found |= children
                waiting += children
    return found


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return "just ended"
    return " ".join(words)[:200].strip() or "ended, and nobody has waited for it"


def _descriptors() -> Iterator[tuple[int, str]]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except FileNotFoundError:  # the descriptor that listed the folder
            continue
        except OSError:  # macOS: no links here
            target = "?"
        if not target.startswith("/") or target.startswith("/memfd:") or "(deleted)" in target:
            yield int(name), target


def _helpers_of_multiprocessing() -> tuple[set[int], set[int]]:
    """Return process ids and descriptors of the fork server and the resource tracker."""
    pids: set[int] = set()
    descriptors: set[int] = set()
    for module, instance, attributes in (
        ("forkserver", "_forkserver", ("_forkserver_pid", "_forkserver_alive_fd")),
        ("resource_tracker", "_resource_tracker", ("_pid", "_fd")),
    ):
        helper: Any = getattr(sys.modules.get(f"multiprocessing.{module}"), instance, None)
        pid, descriptor = (getattr(helper, attribute, None) for attribute in attributes)
        if isinstance(pid, int):
            pids.add(pid)
        if isinstance(descriptor, int):
            descriptors.add(descriptor)
    return pids, descriptors

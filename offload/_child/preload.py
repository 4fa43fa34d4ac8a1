"""Loads what the workers of a pool share, or each of them has of its own.

A fork copies the memory of a process and one of its threads. What the other threads were doing, or
would have done, is lost in the copy: a pool of native threads (OpenMP, of scikit-learn or LightGBM)
is believed to be there, and whoever gives it work waits for ever. So the supervisor forks only
while it has one thread; see `threads_left`.
"""

from __future__ import annotations

import os
import sys
import time

from offload._wire.lean import signal

__all__ = ["freeze", "load_one", "preload", "threads_left"]

# For threads that are about to end. A joined thread is gone within microseconds.
_END_SECONDS = 0.25
# For the trial fork, whose child does nothing but exit.
_TRIAL_SECONDS = 1.0


def preload(entries: list[str]) -> str:
    """Import or load what all workers need.

    Args:
        entries: names of modules, and `module:qualname` of resources.

    Returns:
        The traceback of what failed first, or "".
    """
    for entry in entries:
        if problem := load_one(entry):
            return problem
    freeze()
    return ""


def load_one(entry: str) -> str:
    """Import or load one of them; return the traceback of what failed, or ""."""
    import importlib

    try:
        if ":" in entry:
            from offload._child.resource import load

            load(entry)
        else:
            importlib.import_module(entry)
    except BaseException:
        import traceback

        return f"preloading {entry!r} failed:\n{traceback.format_exc()}"
    return ""


def freeze() -> None:
    """Keep the collector from touching what exists now: to write to it would unshare its memory."""
    import gc

    gc.collect()
    gc.freeze()  # made for this


def threads_left() -> int:
    """Return how many threads this process has, once those that end by themselves have ended.

    Some libraries end their threads when the process is forked, by a handler that pthread_atfork(3)
    has registered, and start them anew when they are needed: OpenBLAS, and so numpy. For them there
    is a trial fork, whose child exits at once: what is left after that would be lost.
    """
    if _count() == 1:
        return 1
    _fork_for_trial()
    deadline = time.monotonic() + _END_SECONDS
    while (count := _count()) > 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    return count


def _count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:  # macOS: Python's own threads are all that can be told
        return len(sys._current_frames())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - documented for uses like this


def _fork_for_trial() -> None:
    try:
        pid = os.fork()
    except OSError:
        return
    if pid == 0:
        os._exit(0)
    deadline = time.monotonic() + _TRIAL_SECONDS
    while not os.waitpid(pid, os.WNOHANG)[0]:
        if time.monotonic() > deadline:  # a handler of some library waits for what is lost
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(0.001)

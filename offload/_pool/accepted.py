"""Calls that views of pools have accepted: the interpreter does not end before they have."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from concurrent import futures
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["accepted"]


class Accepted:
    """The calls of this process that somebody has submitted; on any thread.

    What `concurrent.futures` promises of its own executors: what was submitted is run, even if the
    program has nothing more to do and nobody waits for the result.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._is_over = False
        self._is_registered = False
        self._knows_processes = False

    def add(self, future: Future[Any]) -> None:
        """Note a call.

        Raises:
            RuntimeError: the interpreter ends, and waits for nothing more.
        """
        with self._lock:
            self._register()
            if self._is_over:
                message = "cannot schedule new futures after interpreter shutdown"
                raise RuntimeError(message)
            self._futures.add(future)

    def _register(self) -> None:
        """Have `finish` called at the end, before the executors of stdlib that pools may use end.

        What is registered last is called first, and each of stdlib's modules registers when it is
        imported: that of processes perhaps after our first call.
        """
        knows_processes = "concurrent.futures.process" in sys.modules
        if self._is_registered and knows_processes == self._knows_processes:
            return
        self._is_registered, self._knows_processes = True, knows_processes
        # As stdlib's executors do: before threads are joined, while all that calls need works. It
        # has no public name; exit hooks come later, when it may be too late for some.
        register: Callable[..., object] = getattr(threading, "_register_atexit", atexit.register)
        try:
            register(self.finish)
        except RuntimeError:  # the interpreter ends already
            self._is_over = True

    def finish(self) -> None:
        """Accept nothing more, and return when what was accepted has ended."""
        with self._lock:
            self._is_over = True
            pending = list(self._futures)
        futures.wait(pending)

    def forget(self) -> None:
        """Forget all, in a forked copy of the process: nobody runs them here."""
        self._lock = threading.Lock()
        self._futures = weakref.WeakSet()


accepted = Accepted()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=accepted.forget)

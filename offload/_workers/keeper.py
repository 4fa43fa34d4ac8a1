"""The keeper: one background thread that starts, watches and stops workers of every pool.

It runs an asyncio loop of its own, so that no process is started, waited for or killed on a
server's event loop, and so that callers that have no asyncio loop (trio, plain threads) have one
to make calls on. A call from asyncio never touches it: it is not on the path of any task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

__all__ = ["keeper", "threads"]

_logger = logging.getLogger("offload.workers")

# Enough for a few large payloads at once; each is bound by memory bandwidth, not by CPU.
_PAYLOAD_THREADS = 4


class Keeper:
    """A thread with an event loop, alive while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; only while held."""
        assert self._loop is not None
        return self._loop

    def hold(self) -> None:
        """Keep the thread alive, starting it if need be, until as many calls of `release`."""
        with self._lock:
            self._holders += 1
            if self._thread is not None:
                return
            loop = asyncio.SelectorEventLoop()
            # A daemon: a program that never closes its pools must still be able to end.
            thread = threading.Thread(
                target=self._run, args=(loop,), name="offload-keeper", daemon=True
            )
            try:
                thread.start()
            except BaseException:  # no more threads: whoever comes next tries again
                self._holders -= 1
                loop.close()
                raise
            self._loop, self._thread = loop, thread

    def release(self) -> None:
        """Let the thread end when nobody holds it any more. May be called on any thread."""
        with self._lock:
            self._holders -= 1
            if self._holders or self._loop is None:
                return
            loop, self._loop, self._thread = self._loop, None, None
        loop.call_soon_threadsafe(loop.stop)

    def post(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Run `callback` soon on the thread; without effect once the thread has ended."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(callback, *arguments)
            except RuntimeError:  # closed between the two lines: there is nothing left to keep
                return

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                try:
                    loop.run_forever()
                except BaseException:
                    # `sys.exit()` in a callback of a user's future, as a rule. A thread of the
                    # user's own would end of it; without this one, every pool would hang.
                    _logger.exception("a callback that runs on the keeper's thread raised")
                    if self._loop is not loop:
                        break
                else:
                    break
        finally:
            loop.close()

    def forget(self) -> None:
        """Drop everything without touching it: this is a forked copy of the process."""
        self.__init__()  # type: ignore[misc]


class Threads:
    """Threads for large payloads; never those of asyncio or anyio, which user code may fill."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a thread run `function`; a future that can be cancelled was not begun."""
        executor = self._executor
        if executor is None:
            executor = self._executor = ThreadPoolExecutor(
                _PAYLOAD_THREADS, thread_name_prefix="offload-payload"
            )
        return executor.submit(function, *arguments)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` in a thread and return what it returns."""
        return await asyncio.wrap_future(self.submit(function, *arguments))

    def forget(self) -> None:
        """Drop everything without touching it: this is a forked copy of the process."""
        self._executor = None


keeper = Keeper()
threads = Threads()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keeper.forget)
    os.register_at_fork(after_in_child=threads.forget)

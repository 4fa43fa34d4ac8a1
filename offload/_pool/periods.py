"""The periods in which a pool is open: one after the other, made at the first call, ended by close.

A pool that is closed refuses calls until it is opened again, and then has a `RunningPool` of its
own; the one before may still be ending its workers.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._child.context import asyncio_loop
from offload._values.options import check_number
from offload.errors import PoolClosedError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from asyncio import Future as AsyncioFuture
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from offload._pool.running_pool import RunningPool

__all__ = ["Periods"]

# Nothing is done under the lock of a pool that takes as long.
_LOCK_SECONDS = 0.5
# How long to wait for workers that have been killed; one in an uninterruptible system call may
# take longer, and nobody can change that.
_KILL_SECONDS = 10.0


class Periods:
    """Opens and closes a pool; on any thread.

    Args:
        pool: its name.
        prepare: does what may run any code (imports), and returns what makes a `RunningPool`.

    Attributes:
        running: what runs the calls; None while the pool is not open. Read on the path of each
            call.
        is_closed: whether the pool was closed, and not opened again.
    """

    def __init__(self, pool: str, prepare: Callable[[], Callable[[], RunningPool]]) -> None:
        self._pool = pool
        self._prepare = prepare
        self.lock = threading.Lock()
        self.running: RunningPool | None = None
        self.is_closed = False
        # Whether the next call opens it again, since who has closed it meant only its own use.
        self._is_at_rest = False
        # Calls that were accepted on some thread, and are perhaps still on their way to here.
        self._promised: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        # Whether the pool is closed, and nothing but they may come in.
        self._awaits_promised = False

    def promise(self, future: Future[Any]) -> bool:
        """Note a call that was accepted; False if the pool is closed, and will refuse it."""
        with self.lock:
            if not self.is_closed:
                self._promised.add(future)
            return not self.is_closed

    def promised(self) -> RunningPool:
        """Return what runs the calls that were promised, also while the pool is closing.

        Raises:
            PoolClosedError: the pool was closed.
        """
        return self._current(is_promised=self._awaits_promised)

    def current(self) -> RunningPool:
        """Return what runs the calls, making it at the first one.

        Raises:
            PoolClosedError: the pool was closed.
        """
        if self._awaits_promised:
            self._refuse_if_closed()
        return self._current()

    def _current(self, *, is_promised: bool = False) -> RunningPool:
        running = self.running
        if running is not None:
            return running  # refuses calls itself while it is closing
        # Not under the lock: it imports what may do anything.
        make = self._prepare()
        killed: Future[None] | None = None
        with self.lock:
            if self.running is None:
                if self._is_at_rest:
                    self.is_closed = self._is_at_rest = False
                if not is_promised:
                    self._refuse_if_closed()
                running = self.running = make()
                if self._was_killed() and not is_promised:
                    killed = running.life.kill()
            running = self.running
        if killed is not None:  # without the lock: it may be done already
            killed.add_done_callback(lambda _: self._drop(running))
        return running

    def _refuse_if_closed(self) -> None:
        if self.is_closed:
            message = (
                f"pool {self._pool!r} is closed; the function did not run. A pool that was closed "
                "can be opened again with `await pool.open()`"
            )
            raise PoolClosedError(message, pool=self._pool, may_have_run=False)

    def _was_killed(self) -> bool:
        """Return whether a signal handler has called `kill` meanwhile, without the lock."""
        return self.is_closed

    def reopen(self) -> None:
        """Let a pool that was closed be opened anew."""
        with self.lock:
            self._is_at_rest = False
            if self.is_closed:
                self.is_closed = False
                if self._awaits_promised:
                    self._awaits_promised = False  # it has not begun to close
                    return
                self.running = None  # one that is still closing goes on by itself

    async def open(self) -> None:
        """Start the first workers, and return when they are ready."""
        await _bridge(_wait(self.current().life.open()))

    async def aclose(self, drain: float | None) -> None:
        """Refuse new calls, let those that are there end, then end all workers."""
        check_number("drain", drain, minimum=0.0)
        with self.lock:
            self.is_closed = True
            self._is_at_rest = False
            promised = [future for future in self._promised if not future.done()]
            self._awaits_promised = bool(promised) and drain != 0.0
            running = self.running
        if self._awaits_promised:
            began = time.monotonic()
            try:
                await _bridge(_wait_for_all(promised, drain))
            except BaseException:
                await self._end(self._stop_awaiting(running), 0.0)
                raise
            running = self._stop_awaiting(running)
            if drain is not None:
                drain = max(drain - (time.monotonic() - began), 0.0)
        await self._end(running, drain)

    def _stop_awaiting(self, running: RunningPool | None) -> RunningPool | None:
        """Let nothing more in; return what is to end: what was made for the promised, if need be.

        Args:
            running: what ran the calls when the pool was closed.
        """
        with self.lock:
            self._awaits_promised = False
            return (running or self.running) if self.is_closed else None

    async def _end(self, running: RunningPool | None, drain: float | None) -> None:
        if running is None:
            return
        import anyio

        drained = running.life.drain()
        try:
            if drain != 0.0:
                await _bridge(_wait_at_most(drained, drain))
        finally:
            # Also when cancelled: what was asked for is that the workers end, and when this returns
            # they have. It takes no longer than a kill.
            closed = running.life.kill()
            with anyio.CancelScope(shield=True):
                await _bridge(_wait_at_most(closed, _KILL_SECONDS))
            self._drop(running)

    def rest(self) -> None:
        """Let the next call open the pool again, if it is closed and nobody has opened it since."""
        with self.lock:
            self._is_at_rest = self.is_closed

    def kill(self) -> Future[None]:
        """End all workers now; the future is done when nothing of them is left."""
        # A signal handler runs on a thread that may have the lock, and then never gets it.
        has_lock = self.lock.acquire(timeout=_LOCK_SECONDS)
        self.is_closed = True
        self._awaits_promised = self._is_at_rest = False
        running = self.running
        if has_lock:
            self.lock.release()
        if running is None:
            from concurrent.futures import Future

            nothing: Future[None] = Future()
            nothing.set_result(None)
            return nothing
        closed = running.life.kill()
        closed.add_done_callback(lambda _: self._drop(running))
        return closed

    def _drop(self, running: RunningPool) -> None:
        # Kept until its last worker is gone, so that whoever closes again waits for the same end;
        # unless the pool was opened anew meanwhile. In a signal handler that lock may be held by
        # this very thread; what is kept then has refused all calls, and goes with the next `open`.
        if self.lock.acquire(timeout=_LOCK_SECONDS):
            if self.running is running:
                self.running = None
            self.lock.release()

    def forget(self) -> None:
        """Let go of the workers: this is a forked copy of the process that has them."""
        # Locks may have been held by threads that do not exist in this process.
        self.lock = threading.Lock()
        self._promised = weakref.WeakSet()
        running, self.running = self.running, None
        if running is not None:
            running.shell.backend.forget()


async def _bridge(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine of asyncio from any async framework."""
    if asyncio_loop() is not None:
        return await coroutine
    from offload._pool.trio import run_on_keeper

    return await run_on_keeper(coroutine)


async def _wait(future: Future[None]) -> None:
    import asyncio

    await asyncio.wrap_future(future)


async def _wait_at_most(future: Future[None], seconds: float | None) -> None:
    import asyncio

    # Not wait_for: it would cancel the future, which others may wait for.
    await asyncio.wait({asyncio.wrap_future(future)}, timeout=seconds)


async def _wait_for_all(futures: list[Future[Any]], seconds: float | None) -> None:
    import asyncio

    ends: list[asyncio.Future[None]] = []
    loop = asyncio.get_running_loop()

    # Not wrap_future: who cancels this wait must not cancel what others wait for.
    for future in futures:
        end: asyncio.Future[None] = loop.create_future()
        ends.append(end)
        future.add_done_callback(partial(_finish_soon, loop, end))
    await asyncio.wait(ends, timeout=seconds)


def _finish_soon(loop: AbstractEventLoop, end: AsyncioFuture[None], _: Future[Any]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(end.set_result, None)

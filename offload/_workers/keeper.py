"""The keeper: one background thread that starts, watches and stops workers of every pool.

It runs an asyncio loop of its own, so that no process is started, waited for or killed on a
server's event loop, and so that callers that have no asyncio loop (trio, plain threads) have one
to make calls on. A call from asyncio never touches it: it is not on the path of any task.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keeper", "submit_once", "threads"]

_logger = logging.getLogger("offload.workers")

# Enough for a few large payloads at once; each is bound by memory bandwidth, not by CPU.
_PAYLOAD_THREADS = 4
_BEAT_SECONDS = 1.0


class Keeper:
    """A thread with an event loop, alive while somebody holds it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # What is called once a second, and the loop on which that has begun.
        self._beats: tuple[Callable[[], object], ...] = ()
        self._beating: asyncio.AbstractEventLoop | None = None

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

    def is_here(self) -> bool:
        """Return whether this is its thread."""
        return threading.current_thread() is self._thread

    def post(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Run `callback` soon on the thread; without effect once the thread has ended.

        In an empty context: what it leaves on the loop may live for long, and the poster's context
        is a request's, as a rule.
        """
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(callback, *arguments, context=contextvars.Context())
            except RuntimeError:  # closed between the two lines: there is nothing left to keep
                return

    def add_beat(self, beat: Callable[[], object]) -> None:
        """Call `beat` once a second on the thread, for good, whenever there is the thread.

        Not on time to the millisecond, and for what takes far less than one.
        """
        with self._lock:
            self._beats = (*self._beats, beat)
        self.post(self._begin_to_beat)

    def _begin_to_beat(self) -> None:
        loop = asyncio.get_running_loop()
        if self._beats and self._beating is not loop:
            self._beating = loop
            loop.call_later(_BEAT_SECONDS, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(_BEAT_SECONDS, self._beat, loop)
        for beat in self._beats:
            try:
                beat()
            except Exception:  # noqa: BLE001 - it is logged
                log_safely(
                    _logger,
                    logging.ERROR,
                    "a task that runs every second has raised",
                    exc_info=True,
                )

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_soon(self._begin_to_beat, context=contextvars.Context())
        try:
            while True:
                try:
                    loop.run_forever()
                except BaseException:  # noqa: BLE001 - it is logged
                    # `sys.exit()` in a callback of a user's future, as a rule. A thread of the
                    # user's own would end of it; without this one, every pool would hang.
                    log_safely(
                        _logger,
                        logging.ERROR,
                        "a callback that runs on the keeper's thread raised",
                        exc_info=True,
                    )
                    if self._loop is not loop:
                        break
                else:
                    break
        finally:
            loop.close()

    def forget(self) -> None:
        """Drop everything without touching it: this is a forked copy of the process."""
        beats = self._beats
        self.__init__()  # type: ignore[misc]
        self._beats = beats


def submit_once(
    executor: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any
) -> Future[Any]:
    """Submit to threads; if that raises, `function` does not run, now or later.

    stdlib's `submit` queues a task before it starts a thread for it. Where there are no more
    threads it raises, and a thread that there is already runs the task all the same.

    Raises:
        RuntimeError: the executor is shut down, or no thread can be started and none took it.
    """
    future: Future[Any] = Future()
    try:
        queued = executor.submit(_run_once, future, function, arguments)
    except BaseException as error:
        if future.cancel() or not isinstance(error, Exception):
            raise
    else:
        # It was dropped by the executor: cancelled when that is shut down, or failed when an
        # initializer of the user's has.
        queued.add_done_callback(lambda queued: _drop_once(future, queued))
    return future


def _run_once(
    future: Future[Any], function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function(*arguments)
    except BaseException as error:  # noqa: BLE001 - it is the future's
        future.set_exception(error)
        del future  # the error's traceback has this frame, and the future has the error
    else:
        future.set_result(result)


def _drop_once(future: Future[Any], queued: Future[Any]) -> None:
    if future.done():
        return
    if queued.cancelled():
        future.cancel()
    elif (error := queued.exception()) is not None and future.set_running_or_notify_cancel():
        future.set_exception(error)


class Threads:
    """Threads for large payloads; never those of asyncio or anyio, which user code may fill."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a thread run `function`; a future that can be cancelled was not begun.

        Raises:
            RuntimeError: there are no threads, and none can be started. It will not run.
        """
        executor = self._executor
        if executor is None:
            executor = self._executor = ThreadPoolExecutor(
                _PAYLOAD_THREADS, thread_name_prefix="offload-payload"
            )
        try:
            return submit_once(executor, function, *arguments)
        except BaseException as error:
            if not isinstance(error, Exception):
                # A signal handler has raised, perhaps after a thread was started and before the
                # executor had it in its books. The interpreter would wait for that thread at its
                # end, and nobody would end it.
                self._executor = None
                executor.shutdown(wait=False)
            raise

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

"""A timer on an event loop that notes the time, and what another thread can tell of that loop."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import inspect
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

__all__ = ["AsyncioLoop", "Loop", "frames_of_others", "local", "running_loop"]


# To a dictionary of local variables that only its frame has: the frame's, ours, an argument.
_REFERENCES = 3


_COROUTINE = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
# What a loop calls for each of its turns, and what it calls of ours.
_FIRST_OF_LOOP = frozenset({"_run_once", "beat_and_go_on"})


class Loop:
    """Stands for a loop before there is one."""

    def start(self, interval: float, beat: Callable[[], None]) -> None:
        """Call `beat` on the loop, again and again."""

    def stop(self) -> None:
        """Call it no more; on the loop's thread."""

    def is_running(self) -> bool:
        """Return whether the loop runs."""
        return False

    def is_over(self) -> bool:
        """Return whether the loop will never run again; on any thread."""
        return True

    def is_turning(self, frame: FrameType) -> bool:
        """Return whether the loop runs, given what its thread is doing; on any thread."""
        del frame
        return self.is_running()

    def runner(self, frame: FrameType) -> FrameType | None:
        """Return what runs the loop, seen from a frame of what the loop runs; on its thread.

        It is another one when the loop was stopped meanwhile and runs again.
        """
        del frame
        return None

    def context(self, frame: FrameType) -> contextvars.Context | None:
        """Return the context of what the loop is running, given its thread's innermost frame.

        On any thread; None where it runs nothing or that is not known.
        """
        del frame
        return None


class AsyncioLoop(Loop):
    """A loop of asyncio, which need not run yet."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def start(self, interval: float, beat: Callable[[], None]) -> None:
        # Of its own: whatever the starter's context holds, a request perhaps, would live as long.
        context = contextvars.Context()

        def beat_and_go_on() -> None:
            beat()
            self._timer = self._loop.call_later(interval, beat_and_go_on, context=context)

        self._timer = self._loop.call_later(interval, beat_and_go_on, context=context)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def is_running(self) -> bool:
        return self._loop.is_running()

    def is_over(self) -> bool:
        return self._loop.is_closed()

    def runner(self, frame: FrameType) -> FrameType | None:
        runner: FrameType | None = None
        stack = [frame]
        while (back := stack[-1].f_back) is not None:
            stack.append(back)
        for each in reversed(stack):
            code = each.f_code
            # uvloop has no frames of its own: what it runs begins with a callback or a coroutine.
            if code.co_flags & _COROUTINE or code.co_name in _FIRST_OF_LOOP:
                break
            runner = each
        return runner

    def context(self, frame: FrameType) -> contextvars.Context | None:
        import asyncio

        task: Any = asyncio.current_task(self._loop)
        if task is None:
            return _context_of_handle(frame)
        if hasattr(task, "get_context"):  # Python 3.12 and later
            return task.get_context()  # type: ignore[no-any-return]
        # A task visits its context before those of its callbacks.
        return next(
            (each for each in gc.get_referents(task) if isinstance(each, contextvars.Context)), None
        )


class _TrioLoop(Loop):
    def __init__(self, trio: Any) -> None:
        self._trio = trio
        self._scope: Any = trio.CancelScope()
        self._is_running = True

    def start(self, interval: float, beat: Callable[[], None]) -> None:
        async def go_on() -> None:
            try:
                with self._scope:
                    while True:
                        await self._trio.sleep(interval)
                        beat()
            finally:
                self._is_running = False

        self._trio.lowlevel.spawn_system_task(go_on)

    def stop(self) -> None:
        if self._is_running:
            self._scope.cancel()

    def is_running(self) -> bool:
        return self._is_running

    def is_over(self) -> bool:
        return not self._is_running

    def is_turning(self, frame: FrameType) -> bool:
        # In guest mode, which anyio's pytest plugin uses, trio runs in turns of a loop that is not
        # its own.
        return self._is_running and _frame_of(frame, "trio._core._run") is not None

    def context(self, frame: FrameType) -> contextvars.Context | None:
        turn = _frame_of(frame, "trio._core._run", "unrolled_run")
        # What waits for events is in that function as well, with the task that ran last.
        if turn is None or _frame_of(frame, "trio._core._io_epoll") is not None:
            return None
        return getattr(local(turn, "task"), "context", None)


def running_loop() -> Loop:
    """Return the loop that runs in this thread.

    Raises:
        RuntimeError: none does.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with contextlib.suppress(RuntimeError):
            return AsyncioLoop(asyncio.get_running_loop())
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return _TrioLoop(trio)
    message = "no event loop runs in this thread: watch one from inside async code"
    raise RuntimeError(message)


def frames_of_others() -> dict[int, FrameType]:
    """Return the innermost frame of each thread but this one, by its ident.

    The caller's own would be in a variable of itself: a reference cycle, which keeps the frames of
    all threads, and all that is in their variables, until the garbage collector comes.
    """
    frames = sys._current_frames()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - documented
    frames.pop(threading.get_ident(), None)
    return frames


def local(frame: FrameType, name: str) -> Any:
    """Return a local variable of a function's frame, which may be running on another thread.

    None if there is none of this name.
    """
    code = frame.f_code
    if name not in (*code.co_varnames, *code.co_freevars, *code.co_cellvars):
        return None
    found: Any = frame.f_locals
    value = found.get(name)
    # Before Python 3.13 this is a copy, which the frame keeps, and all that is in it alive as long.
    # Where a debugger traces the frame, it is written back; and code that has called `locals()`
    # has the same one.
    if (
        isinstance(found, dict)
        and code.co_flags & inspect.CO_OPTIMIZED
        and frame.f_trace is None
        and sys.getrefcount(found) <= _REFERENCES
    ):
        found.clear()
    return value


def _context_of_handle(frame: FrameType) -> contextvars.Context | None:
    """Return the context of a callback that asyncio's own loop runs."""
    handle = _frame_of(frame, "asyncio.events", "_run")
    return None if handle is None else getattr(local(handle, "self"), "_context", None)


def _frame_of(frame: FrameType, module: str, function: str = "") -> FrameType | None:
    for each, _ in traceback.walk_stack(frame):
        is_in_module = each.f_globals.get("__name__") == module
        if is_in_module and function in ("", each.f_code.co_name):
            return each
    return None

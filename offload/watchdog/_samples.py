"""Looks at the threads of this process: where they are, for whom, and what they have used."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from offload._heartbeat import frames_of_others
from offload.watchdog import _kernel
from offload.watchdog._requests import context_of_thread, scope_of_context, scope_of_stack
from offload.watchdog._stack import is_loop_waiting, stack_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType, FrameType

    from offload._heartbeat import Loop
    from offload.watchdog._stack import Stack

__all__ = ["Looker", "Other", "Round", "Sample", "look_round"]


class Other(NamedTuple):
    """Where a thread was that is not the loop's.

    Attributes:
        thread: its native id, 0 if Python does not know it.
        name: its name.
        stack: where it was.
        scope: the request that it worked for.
        place: what changes when it goes on.
    """

    thread: int
    name: str
    stack: Stack
    scope: Mapping[str, Any] | None
    place: tuple[int, int]


class Sample(NamedTuple):
    """One look at the loop's thread.

    Attributes:
        at: when.
        stack: where it was; empty if the loop was not running.
        is_idle: whether it only waited for events.
        scope: the request that it worked for.
        others: where the other threads were, if somebody else had the GIL.
    """

    at: float
    stack: Stack
    is_idle: bool
    scope: Mapping[str, Any] | None
    others: tuple[Other, ...]


class Round(NamedTuple):
    """A look at all threads, and at the machine, while all was well.

    Attributes:
        at: when.
        used: seconds on CPU and seconds waited for one, by native id.
        places: where each thread was.
        machine: what the machine had lost.
    """

    at: float
    used: dict[int, tuple[float, float]]
    places: set[tuple[int, int]]
    machine: _kernel.Machine


class Looker:
    """Looks at a loop's thread and at the others, from a thread of its own.

    Nothing here gives up the GIL: whoever had it just before is still where it was.

    Args:
        loop: the loop.
        thread: the ident of its thread.
        watcher: the thread that watches.
    """

    def __init__(self, loop: Loop, thread: int, watcher: threading.Thread) -> None:
        self._loop = loop
        self._loop_thread = thread
        self._watcher = watcher

    def look(self, now: float, caller: CodeType | None, *, was_kept: bool) -> Sample:
        """Note where the loop's thread is.

        Args:
            now: the time.
            caller: the code that calls the heartbeat.
            was_kept: whether somebody had the GIL: where the other threads are is noted as well.
        """
        frames = frames_of_others()
        frame = frames.get(self._loop_thread)
        if frame is None or not self._loop.is_turning(frame):
            # Between two runs of a loop, as a test runner has them, nothing is being held.
            return Sample(now, (), is_idle=True, scope=None, others=())
        stack = stack_of(frame)
        context = self._loop.context(frame)
        scope = scope_of_stack(frame) or scope_of_context(context)
        # uvloop waits in C: the innermost Python frame is then the one that has called the loop.
        is_called = stack[0].code is caller and stack[0].module != "asyncio.events"
        is_idle = context is None and (is_called or is_loop_waiting(stack))
        return Sample(now, stack, is_idle, scope, self._others(frames) if was_kept else ())

    def others(self) -> tuple[Other, ...]:
        """Return where the threads are that are neither the loop's nor the watcher's."""
        return self._others(frames_of_others())

    def _others(self, frames: dict[int, FrameType]) -> tuple[Other, ...]:
        known = {thread.ident: thread for thread in threading.enumerate()}
        found: list[Other] = []
        for number, frame in frames.items():
            if number in (self._loop_thread, self._watcher.ident):
                continue
            thread = known.get(number)
            name = str(number) if thread is None else thread.name
            native = (None if thread is None else thread.native_id) or 0
            scope = scope_of_stack(frame) or scope_of_context(context_of_thread(frame))
            found.append(Other(native, name, stack_of(frame), scope, _place(frame)))
        return tuple(found)


def look_round(now: float) -> Round:
    """Note what all threads have used, and where they are."""
    places = {_place(frame) for frame in frames_of_others().values()}
    return Round(now, _kernel.threads(), places, _kernel.machine())


def _place(frame: FrameType) -> tuple[int, int]:
    return (id(frame), frame.f_lasti)

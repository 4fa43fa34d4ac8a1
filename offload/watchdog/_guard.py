"""Watches every loop that runs during a test; for the pytest plugin."""

from __future__ import annotations

import asyncio
import functools
import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from offload._heartbeat import AsyncioLoop, running_loop
from offload.watchdog._ledger import Ledger
from offload.watchdog._watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from offload._heartbeat import Loop
    from offload.watchdog._records import Block, Cause

__all__ = ["LoopGuard"]

# A test can afford more than a server: blocks are found that are little longer than the limit.
_BEATS = 5


class LoopGuard:
    """Collects the blocks of all loops that run between `begin` and `end`.

    Args:
        limit: seconds that a loop may be held.
        causes: which causes count.

    Attributes:
        blocks: what was found; complete after `end`.
    """

    def __init__(self, limit: float, causes: Collection[Cause]) -> None:
        self.blocks: list[Block] = []
        self._limit = limit
        self._causes = causes
        self._run_forever = asyncio.BaseEventLoop.run_forever

    def begin(self) -> None:
        """Watch each loop of asyncio's own that runs from now on, on any thread."""
        original, guard = self._run_forever, self

        @functools.wraps(original)
        def run_forever(self: asyncio.BaseEventLoop) -> None:
            # Before it runs: the first thing that it does may be what holds it.
            watcher = guard.watcher(AsyncioLoop(self))
            try:
                original(self)
            finally:
                watcher.stop(was_running=True)

        asyncio.BaseEventLoop.run_forever = run_forever  # type: ignore[method-assign]

    def end(self) -> None:
        """Watch no more loops."""
        asyncio.BaseEventLoop.run_forever = self._run_forever  # type: ignore[method-assign]

    def watcher(self, loop: Loop) -> Watcher:
        """Begin to watch a loop that runs in this thread, or is about to."""
        watcher = Watcher(loop, self._limit, Ledger(), beats=_BEATS, tell=self._note)
        watcher.start()
        return watcher

    @contextmanager
    def watching(self) -> Generator[None]:
        """Watch the loop that runs in this thread, unless it is one that `begin` has."""
        if isinstance(_asyncio_loop(), asyncio.BaseEventLoop):
            yield
            return
        watcher = self.watcher(running_loop())
        try:
            yield
        finally:
            watcher.stop()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return an async test that is watched on uvloop and on trio as well."""
        if not inspect.iscoroutinefunction(function):
            return function

        @functools.wraps(function)
        async def watched(*args: Any, **kwargs: Any) -> Any:
            with self.watching():
                return await function(*args, **kwargs)

        return watched

    def _note(self, block: Block) -> None:
        if block.cause in self._causes:
            self.blocks.append(block)

    def __str__(self) -> str:
        """Tell all blocks, each with what to do and with its stack."""
        return "\n\n".join(f"{each}\n{each.advice}\n{each.stack.rstrip()}" for each in self.blocks)


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

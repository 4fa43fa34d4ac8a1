"""What several holders share, a pool above all, and the last one to let go of it closes."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from offload._child.context import asyncio_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Hold"]

T = TypeVar("T")


class Hold(Generic[T]):
    """One share of something that is closed with its last share.

    Holders may be on any event loops and threads of the process.

    Attributes:
        of: what is held.
    """

    _lock: ClassVar[threading.Lock] = threading.Lock()
    # The number of shares of each thing, and a future for each thing that is being closed. No thing
    # is in both.
    _counts: ClassVar[dict[object, int]] = {}
    _closing: ClassVar[dict[object, Future[None]]] = {}

    def __init__(self, of: T) -> None:
        self.of = of

    @classmethod
    async def take(cls, thing: T) -> Hold[T]:
        """Take hold of something; wait for whoever closes it, if somebody does."""
        while True:
            with cls._lock:
                closed = cls._closing.get(thing)
                if closed is None:
                    cls._counts[thing] = cls._counts.get(thing, 0) + 1
                    return cls(thing)
            # Not opened meanwhile, though a pool can be: whoever closes it looks at its workers
            # more than once, and would end the new ones.
            await _until_done(closed)

    async def release(self, close: Callable[[], Awaitable[None]]) -> None:
        """Let go, and close it if nobody else holds it.

        Args:
            close: what closes it.
        """
        with self._lock:
            # None in a fork's copy of the process: what it holds is its parent's.
            count = self._counts.pop(self.of, 1) - 1
            if count:
                self._counts[self.of] = count
                return
            # In one step with the last look, or somebody who starts right now on another thread
            # would open it first, and then have it closed.
            closed = self._closing[self.of] = Future()
        try:
            await close()
        finally:
            with self._lock:
                self._closing.pop(self.of, None)
            closed.set_result(None)

    @classmethod
    def forget(cls) -> None:
        """Forget everything, in a fork's copy of the process: its pools are closed."""
        cls._lock = threading.Lock()
        cls._counts.clear()
        cls._closing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Hold.forget)


async def _until_done(future: Future[None]) -> None:
    """Wait, on any event loop, for a future that another one may finish."""

    async def wait() -> None:
        # A wait that is cancelled does not cancel what others wait for, too.
        await asyncio.wait({asyncio.wrap_future(future)})

    if asyncio_loop() is not None:
        await wait()
    else:
        from offload._pool.trio import run_on_keeper

        await run_on_keeper(wait())

"""Where an engine's connections live: on the caller's asyncio loop, or for trio on a thread's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from offload.jobs._errors import JobsUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Self

__all__ = ["Loops"]

_T = TypeVar("_T")
_END: Any = object()


class Loops:
    """The loop that an engine was opened on.

    Args:
        url: of the engine's server, for errors.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ours = False

    def hold(self) -> None:
        """Take the running loop; under trio, the loop of the thread that also serves pools."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            from offload._workers.keeper import keeper

            keeper.hold()
            self._loop, self._is_ours = keeper.loop, True

    def release(self) -> None:
        """Let go of it."""
        if self._is_ours:
            from offload._workers.keeper import keeper

            keeper.release()
        self._loop, self._is_ours = None, False

    async def run(
        self, coroutine: Coroutine[Any, Any, _T], unreceived: Callable[[_T], object] | None = None
    ) -> _T:
        """Run a coroutine there, and wait for it.

        Args:
            coroutine: what to run.
            unreceived: is given a result that nobody receives, since the caller was cancelled.
        """
        loop = self._loop
        if loop is None:
            coroutine.close()
            raise JobsUnavailableError(f"the engine of {self._url} is not open", location=self._url)
        if self._is_ours:
            from offload._pool.trio import run_on_keeper

            result: _T = await run_on_keeper(coroutine, unreceived)
            return result
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not loop:
            coroutine.close()
            raise JobsUnavailableError(
                f"the engine of {self._url} was opened on another event loop: open one for each",
                location=self._url,
            )
        return await coroutine

    def post(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Call back there, soon or at once."""
        if self._is_ours and self._loop is not None:
            self._loop.call_soon_threadsafe(callback, *arguments)
        else:
            callback(*arguments)

    def iterate(self, items: AsyncIterator[_T]) -> AsyncIterator[_T]:
        """Return an iterator for the caller's loop."""
        return _Remote(self, items) if self._is_ours else items


class _Remote:
    """Iterates on the thread's loop, from trio."""

    def __init__(self, loops: Loops, items: AsyncIterator[Any]) -> None:
        self._loops = loops
        self._items = items

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next item."""
        item = await self._loops.run(self._following())
        if item is _END:
            raise StopAsyncIteration
        return item

    async def _following(self) -> Any:
        # StopAsyncIteration cannot be the result of a task.
        async for item in self._items:
            return item
        return _END

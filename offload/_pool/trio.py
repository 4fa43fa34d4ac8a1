"""Lets code that has no asyncio loop, trio above all, wait for coroutines that need one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from offload._workers.keeper import keeper
from offload._workers.logs import log_safely

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine
    from typing import Self

    from offload._pool.invocation import Invocation

__all__ = ["iterate_on_keeper", "on_trio", "run_on_keeper"]

_END: Any = object()
_logger = logging.getLogger("offload.pool")


async def run_on_keeper(
    coroutine: Coroutine[Any, Any, Any], unreceived: Callable[[Any], object] | None = None
) -> Any:
    """Run an asyncio coroutine on the keeper's loop and wait for it under trio.

    Args:
        coroutine: what to run.
        unreceived: called on the keeper's thread with a result that came when the caller had been
            cancelled already: on asyncio there is no such moment.

    Cancellation: the coroutine is cancelled too, and waited for, as a coroutine of ours would be
    that is awaited under asyncio: when a close that was cancelled returns, the workers have ended.
    """
    import trio

    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    started: list[asyncio.Task[Any]] = []

    # Not `asyncio.run_coroutine_threadsafe`: on the way through its future, a function's own
    # `concurrent.futures.CancelledError` would become asyncio's, which means something else.
    def start() -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        started.append(task)
        task.add_done_callback(ended)

    def ended(task: asyncio.Task[Any]) -> None:
        if not task.cancelled():
            task.exception()  # looked at, though perhaps nobody waits for it any more
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    keeper.hold()
    try:
        loop = keeper.loop
        loop.call_soon_threadsafe(start)
        try:
            await done.wait()
        except GeneratorExit:  # by the collector: there is nobody to wait
            loop.call_soon_threadsafe(lambda: started[0].cancel())  # noqa: PLW0108 - as below
            raise
        except BaseException:
            loop.call_soon_threadsafe(lambda: started[0].cancel())  # noqa: PLW0108 - not yet there
            with trio.CancelScope(shield=True):
                await done.wait()
            task = started[0]
            if unreceived is not None and not task.cancelled() and task.exception() is None:
                loop.call_soon_threadsafe(unreceived, task.result())
            raise
        try:
            return started[0].result()
        finally:
            # It has its error, whose traceback refers to this frame.
            started.clear()
    finally:
        keeper.release()


def on_trio(invocation: Invocation) -> Invocation:
    """Return an invocation whose `on_progress` is called on trio's thread."""
    on_progress = invocation.options.on_progress
    if on_progress is None:
        return invocation
    options = invocation.options._replace(on_progress=_call_on_trio(on_progress))
    return invocation._replace(options=options)


def _call_on_trio(callback: Callable[[float, float | None], object]) -> Callable[..., None]:
    """Return a function that, called on the keeper's thread, has `callback` called on trio's."""
    import trio

    from offload._pool.task import in_this_context

    token = trio.lowlevel.current_trio_token()
    tell = in_this_context(callback)

    def call(done: float, total: float | None) -> None:
        try:
            tell(done, total)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it is logged
            # What a callback raises in run_sync_soon would end the whole run of trio.
            log_safely(_logger, logging.ERROR, "on_progress failed", exc_info=True)

    def post(done: float, total: float | None) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(call, done, total)

    return post


class iterate_on_keeper:  # noqa: N801 - reads as the function that it is to its callers
    """Iterates an async generator of asyncio, on the keeper's loop, from trio.

    Not an async generator itself: trio warns of one that is dropped before its end. Dropping this
    drops the generator, which the keeper's loop then closes.
    """

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Any:
        """Return the next item."""
        item = await run_on_keeper(self._following())
        if item is _END:
            raise StopAsyncIteration
        return item

    async def _following(self) -> Any:
        return await anext(self._items, _END)

    async def aclose(self) -> None:
        """Close the generator, also when cancelled."""
        import anyio

        with anyio.CancelScope(shield=True):
            await run_on_keeper(self._items.aclose())

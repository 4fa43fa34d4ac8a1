"""Pools that live as long as the application."""

from __future__ import annotations

import asyncio
import math
import os
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import anyio

from offload._child.context import asyncio_loop
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from starlette.types import Lifespan

__all__ = ["lifespan"]

AppT = TypeVar("AppT")


@overload
def lifespan(
    *pools: Pool | str, drain: float = 10.0, inner: None = None
) -> Callable[[object], AbstractAsyncContextManager[None]]: ...
@overload
def lifespan(*pools: Pool | str, drain: float = 10.0, inner: Lifespan[AppT]) -> Lifespan[AppT]: ...
def lifespan(
    *pools: Pool | str, drain: float = 10.0, inner: Lifespan[Any] | None = None
) -> Lifespan[Any]:
    """Bind pools to the life of an application.

    Opens the pools one after the other, with their workers warm, before the server takes
    requests; drains them all at the same time when the server ends. A pool that several
    applications of the process hold, on whatever event loops and threads, goes on until the last
    of them ends; one that starts while the last one before it closes the pool waits for that.

    Args:
        pools: pools, or names of pools that exist when the application starts; the pool named
            "default" if there are none.
        drain: seconds that running and queued calls are given at the end, for all pools
            together. It begins when the server ends the lifespan, which is after the last request
            has been answered (uvicorn waits for that without limit unless it is given
            `--timeout-graceful-shutdown`): what still runs then are calls of background tasks.
            Keep the sum below what the process manager waits before it kills the server.
        inner: the application's own lifespan. It runs inside: its startup can use the pools, and
            they are closed only after its shutdown. Its state, if any, is passed on.

    Returns:
        What `Starlette(lifespan=...)` and `FastAPI(lifespan=...)` take. It can be entered again
        after it has ended, as test clients do.

    Raises:
        TypeError: a pool is neither a `Pool` nor a name, as when `lifespan` itself, and not its
            result, is given to the application.
        ValueError: `drain` is negative, infinite or not a number.

    Cancellation:
        Cancelled while starting or serving, the pools are closed without a drain; cancelled while
        draining, what still runs is killed. Either way the pools are closed when it returns, except
        for those that another application holds.
    """
    for pool in pools:
        if not isinstance(pool, Pool | str):  # pyright: ignore[reportUnnecessaryIsInstance] - untyped callers
            raise TypeError(
                f"lifespan() takes pools and names of pools, not {type(pool).__name__}; "
                "give the application what it returns: Starlette(lifespan=lifespan())"
            )
    if not 0 <= drain < math.inf:
        raise ValueError(f"drain must be 0 or more seconds and finite, not {drain!r}")

    @asynccontextmanager
    async def pools_bound(app: object) -> AsyncGenerator[Any]:
        holds: list[_Hold] = []
        served = False
        try:
            for pool in _resolve(pools):
                # Noted before it is opened: one that fails or is cancelled halfway has workers.
                holds.append(await _Hold.of(pool))
                await pool.open()
            async with nullcontext() if inner is None else inner(app) as state:
                yield state
                # Not reached when the server is cancelled: only an orderly end is worth a drain.
                served = True
        finally:
            if served:
                await _release(holds, drain)
            else:
                with anyio.CancelScope(shield=True):
                    await _release(holds, 0.0)

    return pools_bound


def _resolve(pools: Sequence[Pool | str]) -> list[Pool]:
    # Names are looked up only now, so that an application may be declared before its pools.
    found = [Pool.named(pool) if isinstance(pool, str) else pool for pool in pools or ("default",)]
    # The same pool twice, as itself and by name, is one pool; a dict keeps the order.
    return list(dict.fromkeys(found))


class _Hold:
    """That an application holds a pool; the last one to let go of it closes it."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    # How many there are of a pool that is held, and what is done when a pool that is being closed
    # is closed: never both of one pool.
    _counts: ClassVar[dict[Pool, int]] = {}
    _closing: ClassVar[dict[Pool, Future[None]]] = {}

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @classmethod
    async def of(cls, pool: Pool) -> _Hold:
        """Take hold of a pool; wait for the application that closes it, if there is one."""
        while True:
            with cls._lock:
                closed = cls._closing.get(pool)
                if closed is None:
                    cls._counts[pool] = cls._counts.get(pool, 0) + 1
                    return cls(pool)
            # Not opened meanwhile, though a pool can be: whoever closes it looks at its workers
            # more than once, and would end the new ones.
            await _until_done(closed)

    async def release(self, drain: float) -> None:
        """Let go of the pool, and close it if nobody else holds it."""
        with self._lock:
            # None in a fork's copy of the process: what it holds is its parent's.
            count = self._counts.pop(self.pool, 1) - 1
            if count:
                self._counts[self.pool] = count
                return
            # In one step with the last look, or an application that starts right now on another
            # thread would open the pool first, and then have it closed.
            closed = self._closing[self.pool] = Future()
        try:
            await _close(self.pool, drain)
        finally:
            with self._lock:
                self._closing.pop(self.pool, None)
            closed.set_result(None)

    @classmethod
    def forget(cls) -> None:
        """Forget everything, in a fork's copy of the process: its pools are closed."""
        cls._lock = threading.Lock()
        cls._counts.clear()
        cls._closing.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Hold.forget)


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


async def _release(holds: Sequence[_Hold], drain: float) -> None:
    # At the same time, so that the drain is that of the application and not one per pool.
    async with anyio.create_task_group() as group:
        for hold in holds:
            group.start_soon(hold.release, drain)


async def _close(pool: Pool, drain: float) -> None:
    try:
        await pool.aclose(drain=drain)
    except BaseException:
        # Cancelled while draining, or by the failure of another pool: without this the workers
        # would live until the server process itself is gone.
        with anyio.CancelScope(shield=True):
            await pool.aclose(drain=0.0)
        raise

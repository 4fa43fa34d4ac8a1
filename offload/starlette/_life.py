"""Pools that live as long as the application."""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio

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
    requests; drains them all at the same time when the server ends.

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
        draining, what still runs is killed. Either way the pools are closed when it returns.
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
        touched: list[Pool] = []
        served = False
        try:
            for pool in _resolve(pools):
                # Noted before it is opened: one that fails or is cancelled halfway has workers.
                touched.append(pool)
                await pool.open()
            async with nullcontext() if inner is None else inner(app) as state:
                yield state
                # Not reached when the server is cancelled: only an orderly end is worth a drain.
                served = True
        finally:
            if served:
                await _close(touched, drain)
            else:
                with anyio.CancelScope(shield=True):
                    await _close(touched, 0.0)

    return pools_bound


def _resolve(pools: Sequence[Pool | str]) -> list[Pool]:
    # Names are looked up only now, so that an application may be declared before its pools.
    found = [Pool.named(pool) if isinstance(pool, str) else pool for pool in pools or ("default",)]
    # The same pool twice, as itself and by name, is one pool; a dict keeps the order.
    return list(dict.fromkeys(found))


async def _close(pools: Sequence[Pool], drain: float) -> None:
    async def close(pool: Pool) -> None:
        try:
            await pool.aclose(drain=drain)
        except BaseException:
            # Cancelled while draining, or by the failure of another pool: without this the
            # workers would live until the server process itself is gone.
            with anyio.CancelScope(shield=True):
                await pool.aclose(drain=0.0)
            raise

    # At the same time, so that the drain is that of the application and not one per pool.
    async with anyio.create_task_group() as group:
        for pool in pools:
            group.start_soon(close, pool)

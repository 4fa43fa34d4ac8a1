"""Many calls at once, bounded, with results in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")
R = TypeVar("R")


async def ordered(
    call: Callable[[T], Awaitable[R]], items: Iterator[T], max_concurrency: int
) -> list[R]:
    """Return `call(item)` for each item, in order, at most `max_concurrency` under way.

    Raises:
        Exception: of the first call that failed, or of `items`; itself and not in a group. The
            rest is cancelled.
    """
    results: list[Any] = []
    failures: list[Exception] = []

    async with anyio.create_task_group() as group:

        async def work() -> None:
            # Each worker of this fan-out takes the next item when it is free, so that items are
            # made when they are needed, and a slow one does not hold up the others.
            try:
                for item in items:
                    index = len(results)
                    results.append(None)
                    results[index] = await call(item)
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group
                failures.append(error)
                group.cancel_scope.cancel()

        for _ in range(max_concurrency):
            group.start_soon(work)

    if failures:
        raise failures[0]
    return results

"""Many calls at once, bounded, with results in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from offload.errors import QueueFullError, RemoteTraceback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from anyio.abc import TaskGroup

__all__ = ["Width", "is_refusal", "ordered"]

T = TypeVar("T")
R = TypeVar("R")

# Calls that end before one more is tried.
_LEAST_PATIENCE = 2
_MOST_PATIENCE = 64


def is_refusal(error: BaseException) -> bool:
    """Return whether the pool refused a call; what the function itself raised does not count."""
    return isinstance(error, QueueFullError) and not isinstance(error.__cause__, RemoteTraceback)


class Width:
    """How many calls of one fan-out to have under way.

    A queue may be too short for all of them, in number or in bytes: then fewer, as many as it has
    taken. Now and then one more is tried: more rarely each time that it is refused, and more often
    each time that it is not.
    """

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self._patience = _LEAST_PATIENCE
        self._left = 0

    def refused(self, under_way: int) -> None:
        """Take note that a call was refused beside so many others."""
        self.now = max(under_way, 1)
        self._patience = min(self._patience * 2, _MOST_PATIENCE)
        self._left = self._patience

    def ended(self) -> bool:
        """Take note that a call has ended; return whether there may be one more now."""
        if self.now >= self.most:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self.now += 1
        self._left = self._patience = max(self._patience // 2, _LEAST_PATIENCE)
        return True


class _Fanout(Generic[T, R]):
    """The items of one fan-out, and what became of them."""

    def __init__(
        self, call: Callable[[T], Awaitable[R]], items: Iterator[T], max_concurrency: int
    ) -> None:
        self.results: list[Any] = []
        self.failures: list[Exception] = []
        self._call = call
        self._items = items
        self._refused: list[tuple[int, T]] = []
        self._width = Width(max_concurrency)
        self._under_way = 0

    async def work(self, group: TaskGroup) -> None:
        """Call for one item after the other; ends when there is none, or are too many of us."""
        # Each takes the next item when it is free, so that items are made when they are needed, and
        # a slow one does not hold up the others.
        try:
            while self._under_way < self._width.now and (taken := self._following()) is not None:
                await self._make(*taken)
                if self._width.ended():
                    group.start_soon(self.work, group)
        except Exception as error:  # noqa: BLE001 - raised by `ordered`, outside of the group
            self.failures.append(error)
            group.cancel_scope.cancel()

    def _following(self) -> tuple[int, T] | None:
        if self._refused:
            return self._refused.pop()
        for item in self._items:
            self.results.append(None)
            return len(self.results) - 1, item
        return None

    async def _make(self, index: int, item: T) -> None:
        self._under_way += 1
        try:
            self.results[index] = await self._call(item)
        except QueueFullError as error:
            if self._under_way == 1 or not is_refusal(error):
                raise
            # The others are still there, and will come to it.
            self._refused.append((index, item))
            self._width.refused(self._under_way - 1)
        finally:
            self._under_way -= 1


async def ordered(
    call: Callable[[T], Awaitable[R]], items: Iterator[T], max_concurrency: int
) -> list[R]:
    """Return `call(item)` for each item, in order, at most `max_concurrency` under way.

    Raises:
        Exception: of the first call that failed, or of `items`; itself and not in a group. The
            rest is cancelled. `QueueFullError` only if no other call of these is under way.
    """
    fanout = _Fanout(call, items, max_concurrency)
    async with anyio.create_task_group() as group:
        for _ in range(max_concurrency):
            group.start_soon(fanout.work, group)
    if fanout.failures:
        raise fanout.failures[0]
    return fanout.results

"""How a thread answers tasks on event loops, of asyncio and of trio.

Neither loop is held, and no task needs a thread of its own to wait on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

__all__ = ["Reply", "TimedOut", "new_reply", "post_all"]

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class TimedOut(Exception):  # noqa: N818 - is caught next door, and never seen
    """No answer came in time."""


class Reply(Protocol, Generic[T]):
    """One answer, on its way from any thread to one task."""

    def post(self, value: T | None, error: BaseException | None) -> None:
        """Answer; on any thread. The first answer counts; one that nobody waits for is dropped."""
        ...

    async def wait(self, seconds: float) -> T:
        """Return the answer, or raise it.

        Raises:
            TimedOut: after that many seconds.
        """
        ...


def new_reply() -> Reply[Any]:
    """Return a reply for the running task."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return _TrioReply()
    return _AsyncioReply(loop)


def post_all(answers: Iterable[tuple[Reply[Any], Any, BaseException | None]]) -> None:
    """Post many answers, and wake each loop of asyncio once, which takes longer than the rest."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_AsyncioReply[Any], _Answer[Any]]]] = {}
    for reply, value, error in answers:
        if isinstance(reply, _AsyncioReply):
            pair = reply, _Answer(value, error)
            by_loop.setdefault(reply.loop, []).append(pair)
        else:
            reply.post(value, error)
    for loop, pairs in by_loop.items():
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_set_all, pairs)


def _set_all(pairs: list[tuple[_AsyncioReply[Any], _Answer[Any]]]) -> None:
    for reply, answer in pairs:
        reply.set(answer)


class _Answer(Generic[T]):
    __slots__ = ("error", "value")

    def __init__(self, value: T | None, error: BaseException | None) -> None:
        self.value = value
        self.error = error

    def unwrap(self) -> T:
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


class _AsyncioReply(Generic[T]):
    __slots__ = ("_future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # Never given an exception, of which asyncio would complain if nobody came to see it.
        self._future: asyncio.Future[_Answer[T]] = loop.create_future()

    def post(self, value: T | None, error: BaseException | None) -> None:
        # RuntimeError: the loop is closed, and the task with it.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.set, _Answer(value, error))

    def set(self, answer: _Answer[T]) -> None:
        """Answer, on the loop."""
        if not self._future.done():
            self._future.set_result(answer)

    async def wait(self, seconds: float) -> T:
        # Not `asyncio.timeout`, which would take longer than the whole rest of this.
        timer = self.loop.call_later(seconds, self.set, _Answer[T](None, TimedOut()))
        try:
            answer = await self._future
        finally:
            timer.cancel()
        return answer.unwrap()


class _TrioReply(Generic[T]):
    __slots__ = ("_answer", "_event", "_token")

    def __init__(self) -> None:
        import trio

        self._token = trio.lowlevel.current_trio_token()
        self._event = trio.Event()
        self._answer: _Answer[T] | None = None

    def post(self, value: T | None, error: BaseException | None) -> None:
        # RunFinishedError, a RuntimeError: the run has ended, and the task with it.
        with contextlib.suppress(RuntimeError):
            self._token.run_sync_soon(self._set, _Answer(value, error))

    def _set(self, answer: _Answer[T]) -> None:
        if self._answer is None:
            self._answer = answer
            self._event.set()

    async def wait(self, seconds: float) -> T:
        import trio

        with trio.move_on_after(seconds):
            await self._event.wait()
        if self._answer is None:
            raise TimedOut
        return self._answer.unwrap()

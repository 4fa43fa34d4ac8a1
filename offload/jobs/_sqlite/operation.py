"""What the engine's methods have a thread do for them."""

from __future__ import annotations

import enum
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from offload.jobs._sqlite.replies import Reply

__all__ = ["Operation"]

T = TypeVar("T")
S = TypeVar("S")


class _Stage(enum.Enum):
    QUEUED = enum.auto()
    BEGUN = enum.auto()
    DONE = enum.auto()
    ABANDONED = enum.auto()


class Operation(Generic[S, T]):
    """What a thread is to run, and where the answer goes.

    An operation that raises an error of ours has not written anything, or has undone it. It may
    be run again, if the transaction fails that it was a part of.

    Args:
        run: given the transaction, or the connection of a reader.
        reply: where the answer goes.
        glance: returns an answer without a transaction, or None if it takes one.
        undo: called with an answer that nobody waits for any more.
        is_synced: whether the commit has to reach the disk.
    """

    __slots__ = ("_answer", "_lock", "_stage", "glance", "is_synced", "reply", "run", "undo")

    def __init__(
        self,
        run: Callable[[S], T],
        reply: Reply[T],
        *,
        glance: Callable[[sqlite3.Connection], T | None] | None = None,
        undo: Callable[[T], None] | None = None,
        is_synced: bool = True,
    ) -> None:
        self.run = run
        self.reply = reply
        self.glance = glance
        self.undo = undo
        self.is_synced = is_synced
        self._lock = threading.Lock()
        self._stage = _Stage.QUEUED
        # Boxed, since None may be an answer.
        self._answer: tuple[T] | None = None

    def begin(self) -> bool:
        """Return whether to run it; on the thread."""
        with self._lock:
            if self._stage is _Stage.ABANDONED:
                return False
            self._stage = _Stage.BEGUN
            return True

    def succeed(self, value: T) -> None:
        """Answer, or undo; on the thread, once the transaction is committed."""
        if self.end(value):
            self.reply.post(value, None)

    def end(self, value: T) -> bool:
        """Return whether somebody waits for the answer; if nobody does, undo. As `succeed`."""
        with self._lock:
            is_abandoned = self._stage is _Stage.ABANDONED
            if not is_abandoned:
                self._stage, self._answer = _Stage.DONE, (value,)
        if is_abandoned and self.undo is not None:
            self.undo(value)
        return not is_abandoned

    def fail(self, error: BaseException) -> None:
        """Answer that it failed; on the thread."""
        self.reply.post(None, error)

    def abandon(self) -> bool:
        """Give the answer up; on the loop. Return whether the operation had begun, or ended."""
        with self._lock:
            stage, answer = self._stage, self._answer
            self._stage = _Stage.ABANDONED
        if answer is not None and self.undo is not None:
            self.undo(*answer)
        return stage is not _Stage.QUEUED

"""What an observer of a pool is told: each call, when it is made and when it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offload._values.outcome import Outcome

__all__ = ["CallRecord", "Observer"]


class CallRecord:
    """One call, from its making to its end. Instants are of `time.monotonic()`, 0.0 until known.

    Attributes:
        function: the function as `module:qualname`.
        pool: the pool's name.
        queued_at: when the call was made.
        queued_unix: the same as `time.time()`.
        started_at: when a worker was given it; of the last attempt.
        ended_at: when its caller was told.
        attempts: how often a worker was given it.
        outcome: how it ended; None while it is under way.
        error: what the caller got instead of a result.
        worker_pid: process id of its last worker; None if it had none, or where unknown.
        context: for the observer's own notes.
    """

    __slots__ = (
        "attempts",
        "context",
        "ended_at",
        "error",
        "function",
        "outcome",
        "pool",
        "queued_at",
        "queued_unix",
        "started_at",
        "worker_pid",
    )

    def __init__(self, function: str, pool: str, queued_at: float, queued_unix: float) -> None:
        self.function: str = function
        self.pool: str = pool
        self.queued_at: float = queued_at
        self.queued_unix: float = queued_unix
        self.started_at: float = 0.0
        self.ended_at: float = 0.0
        self.attempts: int = 0
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.worker_pid: int | None = None
        self.context: dict[str, Any] = {}


class Observer(Protocol):
    """Is told of calls. Must be quick, and what it raises is logged and goes no further."""

    def submitted(self, call: CallRecord) -> Mapping[str, str] | None:
        """Take note of a call that is about to be made, in the context of its caller.

        Returns:
            What its worker is to be told, None for nothing. The item "hook" names a module, which
            the worker imports and whose `enter(carrier)` makes a context manager: the function
            runs inside it.
        """
        ...

    def ended(self, call: CallRecord) -> None:
        """Take note of its end, whatever it was; on the thread of the caller's event loop."""
        ...

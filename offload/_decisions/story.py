"""The last transitions of a pool, so that "a call hung" can be reported with evidence."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

__all__ = ["Story", "Transition"]

_KEPT = 200


class Transition(NamedTuple):
    """One thing that happened to a pool.

    Attributes:
        at: `time.monotonic()` seconds.
        event: what happened, such as "start failed" or "cancel".
        worker: number of the worker; 0 where there is none.
        function: the function as `module:qualname`; "" where there is none.
        detail: why, or what came of it.
    """

    at: float
    event: str
    worker: int = 0
    function: str = ""
    detail: str = ""

    def __str__(self) -> str:
        """Tell it in one line, without its time."""
        parts = [self.event]
        if self.worker:
            parts.append(f"worker {self.worker}")
        if self.function:
            parts.append(self.function)
        if self.detail:
            parts.append(f"({self.detail})")
        return " ".join(parts)


class Story:
    """A bounded record of transitions, the oldest first.

    It holds text and numbers only: a task or a worker in it would keep megabytes alive. What
    happens in each call that goes well, its assignment and its end, is left out: that would push
    everything else out within milliseconds, and cost each call a microsecond.
    """

    __slots__ = ("_transitions",)

    def __init__(self) -> None:
        self._transitions: deque[Transition] = deque(maxlen=_KEPT)

    def note(
        self, at: float, event: str, worker: int = 0, function: str = "", detail: str = ""
    ) -> None:
        """Record one transition."""
        self._transitions.append(Transition(at, event, worker, function, detail))

    def transitions(self) -> tuple[Transition, ...]:
        """Return what is kept, the oldest first."""
        return tuple(self._transitions)

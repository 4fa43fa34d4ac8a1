"""Whether the program itself stood still: stopped, or without a CPU. It reads no clock itself."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Pulse"]

# A busy loop is late by less.
_NOTABLE_SECONDS: Final = 0.3
_KEPT: Final = 16


class Pulse:
    """How late the event loop came to what it does all the time."""

    def __init__(self) -> None:
        self._lags: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def beat(self, due_at: float, now: float) -> None:
        """Note that something was due at an instant, and is done now."""
        if now - due_at >= _NOTABLE_SECONDS:
            self._lags.append((now, now - due_at))

    def longest(self, since: float) -> float:
        """Return for how long it stood still at most, of the times that ended after an instant."""
        return max((lag for at, lag in self._lags if at >= since), default=0.0)

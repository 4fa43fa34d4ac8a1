"""What has ended in a pool since somebody looked last, for who keeps a history of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from offload._values.histogram import Histogram

if TYPE_CHECKING:
    from offload._values.histogram import HistogramSnapshot
    from offload._values.outcome import Outcome

__all__ = ["Window", "WindowStatistics"]


class WindowStatistics(NamedTuple):
    """The calls and attempts of all functions that have ended within some time.

    Attributes:
        ended: calls by outcome.
        wait: seconds between admission and start.
        run: seconds between start and reply.
    """

    ended: Counter[Outcome]
    wait: HistogramSnapshot
    run: HistogramSnapshot


class Window:
    """What has ended since it was taken last; under the lock of the books.

    Nothing is kept before somebody has taken it once: most pools have nobody who would.
    """

    __slots__ = ("_ended", "_run", "_wait", "is_kept")

    def __init__(self) -> None:
        self.is_kept = False
        self._clear()

    def add(self, outcomes: list[Outcome], wait: list[float], run: list[float]) -> None:
        """Count what has ended."""
        self._ended.update(outcomes)
        self._wait.extend(wait)
        self._run.extend(run)

    def taken(self) -> WindowStatistics:
        """Return it, and begin anew."""
        self.is_kept = True
        told = WindowStatistics(self._ended, self._wait.snapshot(), self._run.snapshot())
        self._clear()
        return told

    def _clear(self) -> None:
        self._ended: Counter[Outcome] = Counter()
        self._wait = Histogram()
        self._run = Histogram()

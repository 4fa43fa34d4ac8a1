"""What a process has enqueued, as numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offload._values.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offload._values.histogram import HistogramSnapshot
    from offload.jobs._values import NewJob

__all__ = ["ENQUEUE_OUTCOMES", "EnqueueCount", "EnqueueCounters", "JobsStatistics"]

ENQUEUE_OUTCOMES: Final = ("stored", "refused", "unavailable")
"""How enqueuing can end: kept, refused since the queue was full, or the engine did not answer."""


@dataclass(frozen=True, slots=True)
class EnqueueCount:
    """How often this process has enqueued one function into one queue.

    Attributes:
        queue: name of the queue.
        function: as `module:qualname`.
        outcome: `stored`, `refused` (the queue was full) or `unavailable` (the engine did not
            answer; some of these jobs may be there all the same).
        count: jobs.
    """

    queue: str
    function: str
    outcome: str
    count: int


@dataclass(frozen=True, slots=True)
class JobsStatistics:
    """What one `Jobs` has done in this process.

    Attributes:
        location: where its jobs are, as a URL without secrets.
        enqueued: by queue, function and outcome; those that never were are not there.
        enqueue: seconds from the request to the engine's answer, also where it was a refusal.
            `enqueue_many` counts once for each thousand.
    """

    location: str
    enqueued: tuple[EnqueueCount, ...]
    enqueue: HistogramSnapshot


class EnqueueCounters:
    """The numbers, as they are kept; on any thread."""

    def __init__(self) -> None:
        self._changed = threading.Lock()
        self._counts: dict[tuple[str, str, str], int] = {}
        self._seconds = Histogram()

    def note(self, jobs: Iterable[NewJob], outcome: str, seconds: float) -> None:
        """Count a request."""
        with self._changed:
            self._seconds.record(seconds)
            for job in jobs:
                key = job.queue, job.function, outcome
                self._counts[key] = self._counts.get(key, 0) + 1

    def statistics(self, location: str) -> JobsStatistics:
        """Return the numbers of this instant."""
        with self._changed:
            counts, seconds = sorted(self._counts.items()), self._seconds.snapshot()
        enqueued = tuple(EnqueueCount(*key, count) for key, count in counts)
        return JobsStatistics(location, enqueued, seconds)

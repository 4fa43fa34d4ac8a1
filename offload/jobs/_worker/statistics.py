"""What a worker program has done, as numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offload._values.histogram import Histogram

if TYPE_CHECKING:
    from offload._values.histogram import HistogramSnapshot
    from offload.jobs._options import AttemptOutcome

__all__ = ["Counters", "JobFunctionStatistics", "WorkerProgramStatistics"]


@dataclass(frozen=True, slots=True)
class WorkerProgramStatistics:
    """A worker program at one instant; counters are since its start.

    Attributes:
        worker: its identity, as jobs have it in their history.
        state: `starting`, `running`, `draining` or `ended`.
        functions: how many functions it can run.
        slots: attempts that it can run at once.
        active: attempts under way, those included that wait for their report to be stored.
        claimed: jobs that it has claimed.
        ended: attempts by outcome; `lapsed` are those that it stopped since it could not extend
            their lease, or had lost it.
        fenced: reports that were refused, since the claim was no longer valid.
        swept: jobs that it found with a lease that had run out, as of a program that died, or with
            a deadline that had passed while they waited.
        run_seconds: sum of the time that attempts ran.
        outages: times that the engine could not be reached.
        is_connected: whether the last round trip to the engine succeeded.
    """

    worker: str
    state: str
    functions: int
    slots: int
    active: int
    claimed: int
    ended: dict[str, int]
    fenced: int
    swept: int
    run_seconds: float
    outages: int
    is_connected: bool


@dataclass(frozen=True, slots=True)
class JobFunctionStatistics:
    """What a worker program has done with the jobs of one function and queue, since its start.

    Attributes:
        queue: name of the queue.
        function: as `module:qualname`.
        ended: attempts by outcome; those that never were are not there.
        wait: seconds from enqueuing to the first claim, with the delay that was asked for.
        run: seconds that attempts ran, whatever they came to.
    """

    queue: str
    function: str
    ended: dict[str, int]
    wait: HistogramSnapshot
    run: HistogramSnapshot


class _OfFunction:
    __slots__ = ("ended", "run", "wait")

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self.wait = Histogram()
        self.run = Histogram()


@dataclass(slots=True)
class Counters:
    """The counters, as they are kept: written on the loop of the program, read on any thread."""

    claimed: int = 0
    fenced: int = 0
    swept: int = 0
    run_seconds: float = 0.0
    ended: dict[str, int] = field(default_factory=dict[str, int])
    _functions: dict[tuple[str, str], _OfFunction] = field(
        default_factory=dict[tuple[str, str], _OfFunction]
    )
    _changed: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, queue: str, function: str, wait: float | None) -> None:
        """Count a claim; `wait` is that of a first one."""
        self.claimed += 1
        if wait is not None:
            with self._changed:
                self._of(queue, function).wait.record(wait)

    def ran(self, queue: str, function: str, seconds: float) -> None:
        """Count the time that an attempt ran."""
        self.run_seconds += seconds
        with self._changed:
            self._of(queue, function).run.record(seconds)

    def note(self, queue: str, function: str, outcome: AttemptOutcome) -> None:
        """Count an attempt that has ended."""
        self.ended[outcome] = self.ended.get(outcome, 0) + 1
        with self._changed:
            ended = self._of(queue, function).ended
            ended[outcome] = ended.get(outcome, 0) + 1

    def by_function(self) -> tuple[JobFunctionStatistics, ...]:
        """Return what there is by queue and function."""
        with self._changed:
            return tuple(
                JobFunctionStatistics(
                    *key, dict(each.ended), each.wait.snapshot(), each.run.snapshot()
                )
                for key, each in sorted(self._functions.items())
            )

    def _of(self, queue: str, function: str) -> _OfFunction:
        key = queue, function
        found = self._functions.get(key)
        if found is None:
            found = self._functions[key] = _OfFunction()
        return found

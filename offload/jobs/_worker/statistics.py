"""What a worker program has done, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload.jobs._options import AttemptOutcome

__all__ = ["Counters", "WorkerProgramStatistics"]


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
    run_seconds: float
    outages: int
    is_connected: bool


@dataclass(slots=True)
class Counters:
    """The counters, as they are kept."""

    claimed: int = 0
    fenced: int = 0
    run_seconds: float = 0.0
    ended: dict[str, int] = field(default_factory=dict[str, int])

    def note(self, outcome: AttemptOutcome) -> None:
        """Count an attempt that has ended."""
        self.ended[outcome] = self.ended.get(outcome, 0) + 1

"""How many jobs have ended, by time: what engines tell dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from offload.jobs._values import JobState

__all__ = ["ENDED_SECONDS", "ENDED_STEP", "Ended", "EndedCount"]

# What an SQLite file keeps: one row for each ten seconds in which a job ended, for a day and an
# hour. Redis and Postgres count the jobs that they still have.
ENDED_STEP: Final = 10
ENDED_SECONDS: Final = 25 * 3600


@dataclass(frozen=True, slots=True)
class EndedCount:
    """How many jobs of one queue ended in one state within one step of time; never 0.

    Attributes:
        queue: name of the queue.
        state: `completed`, `failed` or `cancelled`.
        at: beginning of the step, in seconds since the epoch.
        count: jobs.
    """

    queue: str
    state: JobState
    at: int
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """What `Engine.ended` tells.

    Attributes:
        now: of the store's clock, in seconds since the epoch: the last step is over only after it.
        counts: in no particular order.
    """

    now: float
    counts: tuple[EndedCount, ...] = ()

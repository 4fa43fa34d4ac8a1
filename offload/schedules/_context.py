"""Inside a fire: which schedule it is of, and which instant it was scheduled for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - the codec of jobs reads annotations

from offload.jobs import job_context
from offload.schedules._records import FireReason  # noqa: TC001 - as above

__all__ = ["FireContext"]


@dataclass(frozen=True, slots=True)
class FireContext:
    """Why and for which instant a function runs.

    A function gets it by a parameter with this annotation: `def report(fire: FireContext)`. The
    schedule gives it by name; who calls the function otherwise gives what they like.

    Attributes:
        schedule: name of the schedule.
        id: of the fire, the same in every process; for jobs, the id of the job.
        fire_time: the instant that it was scheduled for, in the schedule's zone; of a run by hand
            the instant at which somebody asked for it.
        reason: why it runs.
    """

    schedule: str
    id: str
    fire_time: datetime
    reason: FireReason

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1; more only for jobs, where an earlier one has failed."""
        job = job_context()
        return 1 if job is None else job.attempt

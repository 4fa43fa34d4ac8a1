"""What a job is doing, as users see it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

    from offload.jobs._options import JobOptions, JobState
    from offload.jobs._values import Attempt, JobError, JobRecord

__all__ = ["JobProgress", "JobStatus"]


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is.

    Attributes:
        done: how much is done, in the function's own unit.
        total: how much there is; None where unknown.
    """

    done: float
    total: float | None = None

    @property
    def share(self) -> float | None:
        """The part that is done, from 0.0 to 1.0; None where the total is unknown."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total else None

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """Return what a JSON text of an engine says; None: nothing that is a progress."""
        try:
            value: Any = json.loads(text or "null")
            if isinstance(value, dict):
                total: Any = value.get("total")
                return cls(float(value["done"]), None if total is None else float(total))
            # A share in percent, as functions of BullMQ report it.
            return None if value is None else cls(float(value), 100.0)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of a job at one instant.

    Attributes:
        id: of the job.
        function: its function, as `module:qualname`.
        queue: name of its queue.
        state: where it is; `state.is_over` tells whether it has ended.
        attempts: attempts that returned or raised.
        crashes: attempts whose process died, or whose lease ran out.
        starts: how often it was claimed.
        progress: as last reported by the attempt that runs; None: nothing reported.
        created_at: when it was enqueued.
        due_at: when a delayed job becomes waiting; None unless delayed.
        started_at: when the latest attempt began; None before the first.
        ended_at: when it ended; None before.
        worker: the worker program that claimed the latest attempt; empty before the first.
        error: of a failed job, or of the last failed attempt, with the worker's traceback.
        history: attempts that have ended, in order.
        log_count: log lines that are kept.
        is_cancel_asked: whether it was cancelled while it ran, and has not ended yet.
        options: how it is treated.
        arguments: its arguments, as JSON text.
        result: the result of a completed job, as JSON text.
        enqueued_by: who enqueued it, for people to read.
    """

    id: str
    function: str
    queue: str
    state: JobState
    attempts: int
    crashes: int
    starts: int
    progress: JobProgress | None
    created_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    worker: str
    error: JobError | None
    history: tuple[Attempt, ...]
    log_count: int
    is_cancel_asked: bool
    options: JobOptions
    arguments: str
    result: str | None
    enqueued_by: str

    @classmethod
    def of(cls, record: JobRecord) -> Self:
        """Return what an engine's record says."""
        values = {name: getattr(record, name) for name in _SHARED}
        return cls(progress=JobProgress.of(record.progress), **values)


_SHARED: Final = tuple(each.name for each in fields(JobStatus) if each.name != "progress")

"""Errors of jobs. Each says whether something was stored, or whether the job may have run."""

from __future__ import annotations

from typing import Any

from offload._values.outcome import Outcome
from offload.errors import OffloadError

__all__ = [
    "JobCancelledError",
    "JobConflictError",
    "JobFailedError",
    "JobNotFoundError",
    "JobQueueFullError",
    "JobTimeoutError",
    "JobsCorruptError",
    "JobsUnavailableError",
    "LeaseLapsedError",
]


class JobNotFoundError(OffloadError, LookupError):
    """There is no job of that id: there never was, or its retention has ended. It may have run.

    Attributes:
        job_id: the id that was looked up.
    """

    def __init__(self, message: str, *, job_id: str, **common: Any) -> None:
        super().__init__(message, **common)
        self.job_id = job_id


class JobConflictError(OffloadError, ValueError):
    """The job is in a state that does not allow what was asked; nothing changed. It may have run.

    Attributes:
        job_id: the job.
        state: the state that it is in.
    """

    def __init__(self, message: str, *, job_id: str, state: str, **common: Any) -> None:
        super().__init__(message, **common)
        self.job_id = job_id
        self.state = state


class JobQueueFullError(OffloadError):
    """The queue is at its limit, and none of the jobs was stored. It did not run.

    Attributes:
        queue: its name.
        limit: the number of jobs that may wait in it.
    """

    outcome = Outcome.REFUSED
    may_have_run = False

    def __init__(self, message: str, *, queue: str, limit: int, **common: Any) -> None:
        super().__init__(message, **common)
        self.queue = queue
        self.limit = limit


class JobFailedError(OffloadError):
    """The job has ended as failed; raised by whoever waits for its result. It may have run.

    Attributes:
        job_id: the job.
        type_name: qualified name of the last error's class.
        remote_message: its text.
        remote_traceback: as formatted where it was raised; empty where there is none.
        attempts: how often the function returned or raised.
        crashes: how often a process died that ran it.
    """

    def __init__(
        self,
        message: str,
        *,
        job_id: str,
        type_name: str = "",
        remote_message: str = "",
        remote_traceback: str = "",
        attempts: int = 0,
        crashes: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.job_id = job_id
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback
        self.attempts = attempts
        self.crashes = crashes


class JobTimeoutError(OffloadError, TimeoutError):
    """The job did not end while its result was awaited, and goes on. It may have run.

    Attributes:
        job_id: the job.
        timeout: how long was waited, in seconds.
    """

    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str, *, job_id: str, timeout: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.job_id = job_id
        self.timeout = timeout


class JobCancelledError(OffloadError):
    """The job was cancelled; raised by whoever waits for its result. It may have run.

    Attributes:
        job_id: the job.
    """

    outcome = Outcome.CANCELLED

    def __init__(self, message: str, *, job_id: str, **common: Any) -> None:
        super().__init__(message, **common)
        self.job_id = job_id


class JobsUnavailableError(OffloadError, ConnectionError):
    """The engine of the jobs cannot be reached, or cannot store. It may have run if it was stored.

    Attributes:
        location: the file or server, without secrets.
        may_have_happened: False if the change was certainly not made; True where that is unknown.
            The same is said by `may_have_run`: a job that was not stored does not run.
    """

    outcome = Outcome.NOT_STARTED
    may_have_run = False

    def __init__(
        self, message: str, *, location: str, may_have_happened: bool = False, **common: Any
    ) -> None:
        common.setdefault("may_have_run", may_have_happened)
        super().__init__(message, **common)
        self.location = location
        self.may_have_happened = may_have_happened


class JobsCorruptError(JobsUnavailableError):
    """What is stored cannot be read: a damaged file, or one of a newer version. It did not run.

    Attributes:
        location: the file or server, without secrets.
        may_have_happened: False: nothing was changed.
    """


class LeaseLapsedError(OffloadError):
    """The worker program did not extend its lease in time. It may have run, in part or as a whole.

    Found in the history of a job, rather than raised: nobody was there to raise it to.
    """


# A traceback names the module that users import them from, and so does a pickle.
for _error in (
    JobNotFoundError,
    JobConflictError,
    JobQueueFullError,
    JobFailedError,
    JobTimeoutError,
    JobCancelledError,
    JobsUnavailableError,
    JobsCorruptError,
    LeaseLapsedError,
):
    _error.__module__ = "offload.jobs"

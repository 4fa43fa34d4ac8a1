"""Errors of jobs. Each says whether something was stored, or whether the job may have run."""

from __future__ import annotations

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

    def __init__(self, message: str, *, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobConflictError(OffloadError, ValueError):
    """The job is in a state that does not allow what was asked. Nothing changed.

    Attributes:
        job_id: the job.
        state: the state that it is in.
    """

    def __init__(self, message: str, *, job_id: str, state: str) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.state = state


class JobQueueFullError(OffloadError):
    """The queue has as many jobs as it may have. None of the jobs was stored; they do not run.

    Attributes:
        queue: its name.
        limit: the number of jobs that may wait in it.
    """

    def __init__(self, message: str, *, queue: str, limit: int) -> None:
        super().__init__(message)
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
    ) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.type_name = type_name
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback
        self.attempts = attempts
        self.crashes = crashes


class JobTimeoutError(OffloadError, TimeoutError):
    """The job did not end while its result was awaited. It goes on, and may have run.

    Attributes:
        job_id: the job.
        timeout: how long was waited, in seconds.
    """

    def __init__(self, message: str, *, job_id: str, timeout: float) -> None:
        super().__init__(message)
        self.job_id = job_id
        self.timeout = timeout


class JobCancelledError(OffloadError):
    """The job was cancelled; raised by whoever waits for its result.

    It may have run if an attempt had begun.

    Attributes:
        job_id: the job.
    """

    def __init__(self, message: str, *, job_id: str, may_have_run: bool) -> None:
        super().__init__(message, may_have_run=may_have_run)
        self.job_id = job_id


class JobsUnavailableError(OffloadError, ConnectionError):
    """The engine that keeps the jobs cannot be reached, or cannot store: down, full, read-only.

    Attributes:
        location: the file or server, without secrets.
        may_have_happened: False if the change was certainly not made; True where that is unknown.
    """

    def __init__(self, message: str, *, location: str, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.location = location
        self.may_have_happened = may_have_happened


class JobsCorruptError(JobsUnavailableError):
    """What is stored cannot be read: a damaged file, or one of a newer version. Nothing changed."""


class LeaseLapsedError(OffloadError):
    """The worker program did not extend its claim in time. The job may have run, in part or wholly.

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

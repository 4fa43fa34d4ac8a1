"""What is raised when a schedule is declared wrongly, or does not run."""

from __future__ import annotations

from offload.errors import OffloadError

__all__ = ["FireTimeoutError", "NotFiredError", "ScheduleError", "ScheduleNotFoundError"]


class ScheduleError(OffloadError, ValueError):
    """A schedule is declared wrongly: its expression, zone, interval, instant or policy.

    Raised where the schedule is declared, before anything can fire. No function ran.

    Attributes:
        expression: the cron expression at fault; None if something else is.
        field: the field of it, such as `"hour"`; None if all of it is at fault.
        position: index of the first character at fault within the expression; None as above.
    """

    def __init__(
        self,
        message: str,
        *,
        expression: str | None = None,
        field: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.expression = expression
        self.field = field
        self.position = position


class ScheduleNotFoundError(OffloadError, LookupError):
    """There is no schedule of that name. No function ran.

    Attributes:
        schedule: the name.
    """

    def __init__(self, message: str, *, schedule: str) -> None:
        super().__init__(message)
        self.schedule = schedule


class NotFiredError(OffloadError):
    """`Schedule.execute` ran nothing: another run had not ended, or it was stopped before.

    The function did not run.

    Attributes:
        schedule: name of the schedule.
    """

    def __init__(self, message: str, *, schedule: str) -> None:
        super().__init__(message)
        self.schedule = schedule


class FireTimeoutError(OffloadError, TimeoutError):
    """An async function of a schedule ran longer than its timeout, and was cancelled. It has run.

    Attributes:
        timeout: seconds that it may run.
    """

    def __init__(self, message: str, *, timeout: float) -> None:
        super().__init__(message)
        self.timeout = timeout

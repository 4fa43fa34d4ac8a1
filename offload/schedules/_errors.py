"""What is raised when a schedule is declared wrongly, or does not run."""

from __future__ import annotations

from typing import Any

from offload._values.outcome import Outcome
from offload.errors import OffloadError

__all__ = ["FireTimeoutError", "NotFiredError", "ScheduleError", "ScheduleNotFoundError"]


class ScheduleError(OffloadError, ValueError):
    """The declaration of a schedule is wrong: expression, zone, interval or policy. It did not run.

    Raised where the schedule is declared, before anything can fire.

    Attributes:
        expression: the cron expression at fault; None if something else is.
        field: the field of it, such as `"hour"`; None if all of it is at fault.
        position: index of the first character at fault within the expression; None as above.
    """

    may_have_run = False

    def __init__(
        self,
        message: str,
        *,
        expression: str | None = None,
        field: str | None = None,
        position: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.expression = expression
        self.field = field
        self.position = position


class ScheduleNotFoundError(OffloadError, LookupError):
    """There is no schedule of that name. It did not run.

    Attributes:
        schedule: the name.
    """

    may_have_run = False

    def __init__(self, message: str, *, schedule: str, **common: Any) -> None:
        super().__init__(message, **common)
        self.schedule = schedule


class NotFiredError(OffloadError):
    """`Schedule.execute` was refused: a run had not ended, or it was stopped. It did not run.

    Attributes:
        schedule: name of the schedule.
    """

    outcome = Outcome.REFUSED
    may_have_run = False

    def __init__(self, message: str, *, schedule: str, **common: Any) -> None:
        super().__init__(message, **common)
        self.schedule = schedule


class FireTimeoutError(OffloadError, TimeoutError):
    """An async function of a schedule was cancelled at the end of its timeout. It ran in part.

    Attributes:
        timeout: seconds that it may run.
    """

    outcome = Outcome.TIMED_OUT

    def __init__(self, message: str, *, timeout: float, **common: Any) -> None:
        super().__init__(message, **common)
        self.timeout = timeout


# A traceback names the module that users import them from, and so does a pickle.
for _error in (ScheduleError, ScheduleNotFoundError, NotFiredError, FireTimeoutError):
    _error.__module__ = "offload.schedules"

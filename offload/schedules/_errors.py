"""What is raised when a schedule is declared wrongly."""

from __future__ import annotations

from offload.errors import OffloadError

__all__ = ["ScheduleError"]


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

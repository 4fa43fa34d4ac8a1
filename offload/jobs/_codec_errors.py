"""Errors of the codec: a value that cannot be kept as JSON, or JSON that does not fit."""

from __future__ import annotations

from typing import Any

from offload.errors import OffloadError

__all__ = ["JobArgumentError", "JobResultError"]


class JobArgumentError(OffloadError, TypeError):
    """The arguments of a job do not fit its function, or JSON cannot hold them. It did not run.

    Raised by `enqueue`, and by a worker where stored arguments do not fit the function that it has.

    Attributes:
        parameter: name of the parameter, None where the call as a whole does not fit.
        path: place of the culprit inside the arguments, such as `orders[3].when`; "" if none.
        found: the type that was found there, "" if none.
        expected: the annotated type, "" if none.
    """

    may_have_run = False

    def __init__(
        self,
        message: str,
        *,
        parameter: str | None = None,
        path: str = "",
        found: str = "",
        expected: str = "",
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.parameter = parameter
        self.path = path
        self.found = found
        self.expected = expected


class JobResultError(OffloadError, TypeError):
    """The result of a job is not of the annotated type, or JSON cannot hold it. The function ran.

    Attributes:
        path: place of the culprit inside the result, such as `result.rows[3]`.
        found: the type that was found there, "" if none.
        expected: the annotated type, "" if none.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "result",
        found: str = "",
        expected: str = "",
        **common: Any,
    ) -> None:
        super().__init__(message, **common)
        self.path = path
        self.found = found
        self.expected = expected


# A traceback names the module that users import them from, and so does a pickle.
for _error in (JobArgumentError, JobResultError):
    _error.__module__ = "offload.jobs"

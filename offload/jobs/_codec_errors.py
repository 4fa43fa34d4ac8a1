"""Errors of the codec: a value that cannot be kept as JSON, or JSON that does not fit."""

from __future__ import annotations

from offload.errors import OffloadError

__all__ = ["JobArgumentError", "JobResultError"]


class JobArgumentError(OffloadError, TypeError):
    """The arguments of a job do not fit its function, or JSON cannot hold them. It did not run.

    Raised by `enqueue`, and by a worker where stored arguments do not fit the function that it has.

    Attributes:
        function: the function as `module:qualname`.
        parameter: name of the parameter, None where the call as a whole does not fit.
        path: place of the culprit inside the arguments, such as `orders[3].when`; "" if none.
        found: the type that was found there, "" if none.
        expected: the annotated type, "" if none.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str,
        parameter: str | None = None,
        path: str = "",
        found: str = "",
        expected: str = "",
    ) -> None:
        super().__init__(message)
        self.function = function
        self.parameter = parameter
        self.path = path
        self.found = found
        self.expected = expected


class JobResultError(OffloadError, TypeError):
    """The result of a job is not of the annotated type, or JSON cannot hold it. The function ran.

    Attributes:
        function: the function as `module:qualname`.
        path: place of the culprit inside the result, such as `result.rows[3]`.
        found: the type that was found there, "" if none.
        expected: the annotated type, "" if none.
    """

    def __init__(
        self,
        message: str,
        *,
        function: str,
        path: str = "result",
        found: str = "",
        expected: str = "",
    ) -> None:
        super().__init__(message)
        self.function = function
        self.path = path
        self.found = found
        self.expected = expected

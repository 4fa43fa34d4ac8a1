"""What any ASGI application needs, of whatever framework: work that stops in time, errors as HTTP.

`offload.starlette` brings all of this to Starlette and FastAPI; elsewhere, an error handler for
`OffloadError` and for `ExceptionGroup`, which task groups raise, is:

```python
answer = answer_to(error)
if answer is None:  # not, or not only, an error of ours
    raise error
return Response(answer.body, answer.status, {**answer.headers, "content-type": answer.media_type})
```
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, NamedTuple, overload

from offload._asgi.deadline import DeadlineFromHeader
from offload._asgi.disconnect import CancelOnDisconnect
from offload._asgi.messages import CLIENT_CLOSED_REQUEST
from offload._values.outcome import Outcome
from offload.errors import (
    ArgumentError,
    ClientDisconnectedError,
    DeadlineError,
    FunctionError,
    FunctionNotFoundError,
    OffloadError,
    PoolClosedError,
    PoolNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    TaskCpuError,
    TaskKilledError,
    TaskMemoryError,
    TaskTimeoutError,
    WorkerCrashedError,
    WorkerStartError,
)
from offload.jobs._codec_errors import JobArgumentError
from offload.jobs._errors import (
    JobConflictError,
    JobNotFoundError,
    JobsCorruptError,
    JobsUnavailableError,
    JobTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Answer", "CancelOnDisconnect", "DeadlineFromHeader", "answer_to"]

_OURS = __name__.partition(".")[0]
# Seconds a client is told to wait where the error itself has no estimate: a pool that closes is
# usually replaced by another server within a second or so, and asking again costs little.
_DEFAULT_RETRY_AFTER = 1.0
# An estimate made from a few slow calls can be absurd; no client should give up for a day on it.
_MAX_RETRY_AFTER = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client is told of an error: what it may do next, and nothing of how we are made.

    Attributes:
        status: HTTP status: 503 (with `Retry-After`), 504, 500; 499 where the client has left; 404
            and 409 of a job that is not there, or in another state than was asked for.
        headers: headers that belong to it.
        detail: a fixed text for a human at the client. The error's own may quote an argument.
        error: name of the error's class; of ours, where the application has a subclass.
        may_have_run: whether the work of the calls that failed may have been done, at least in
            part. Others of the same request may have run before them or beside them.
        level: level of `logging` that its operator should hear of it at.
    """

    status: int
    headers: dict[str, str]
    detail: str
    error: str
    may_have_run: bool
    level: int

    media_type: ClassVar[str] = "application/problem+json"

    @property
    def body(self) -> bytes:
        """The same as a problem in JSON (RFC 9457), in UTF-8."""
        problem = {
            "type": "about:blank",
            "title": "Client Closed Request"
            if self.status == CLIENT_CLOSED_REQUEST
            else HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "error": self.error,
            "may_have_run": self.may_have_run,
        }
        return json.dumps(problem, ensure_ascii=False, allow_nan=False).encode()


class _Rule(NamedTuple):
    status: int
    level: int
    detail: str


_BUSY = HTTPStatus.SERVICE_UNAVAILABLE
_LATE = HTTPStatus.GATEWAY_TIMEOUT
_BROKEN = HTTPStatus.INTERNAL_SERVER_ERROR
_INFO, _WARNING, _ERROR = logging.INFO, logging.WARNING, logging.ERROR
_NO_CALL = _Rule(_BROKEN, _ERROR, "The server cannot do what this request asks for.")

# Looked up along an error's bases; then by its outcome.
_RULES: dict[type, _Rule] = {
    QueueFullError: _Rule(
        _BUSY, _INFO, "The server is too busy to take this request. Try again later."
    ),
    QueueTimeoutError: _Rule(
        _BUSY, _INFO, "The server was too busy to begin in time. Try again later."
    ),
    PoolClosedError: _Rule(_BUSY, _INFO, "The server is shutting down. Try again later."),
    WorkerStartError: _Rule(_BUSY, _ERROR, "The server cannot begin at present. Try again later."),
    TaskTimeoutError: _Rule(_LATE, _WARNING, "The work took longer than it may and was stopped."),
    TaskCpuError: _Rule(_LATE, _WARNING, "The work took longer than it may and was stopped."),
    TaskMemoryError: _Rule(_BROKEN, _WARNING, "The work took more memory than it may."),
    # Not 503, though it may not have run: the limit is the caller's, and trying again with the
    # same one is no better idea than before.
    DeadlineError: _Rule(_LATE, _INFO, "The work could not be done by its deadline."),
    ClientDisconnectedError: _Rule(CLIENT_CLOSED_REQUEST, _INFO, "The client has left."),
    # Not 503: what somebody stops by hand should not come back by itself.
    TaskKilledError: _Rule(_BROKEN, _WARNING, "The work was stopped."),
    WorkerCrashedError: _Rule(_BROKEN, _ERROR, "The work ended unexpectedly."),
    FunctionError: _NO_CALL,
    FunctionNotFoundError: _NO_CALL,
    PoolNotFoundError: _NO_CALL,
    ArgumentError: _NO_CALL,
    JobArgumentError: _NO_CALL,
    JobNotFoundError: _Rule(HTTPStatus.NOT_FOUND, _INFO, "There is no such job."),
    JobConflictError: _Rule(
        HTTPStatus.CONFLICT, _INFO, "The job is in a state that does not allow this."
    ),
    JobTimeoutError: _Rule(_LATE, _INFO, "The work has not ended in time. It continues."),
    JobsUnavailableError: _Rule(
        _BUSY, _ERROR, "The server cannot keep this request at present. Try again later."
    ),
    JobsCorruptError: _NO_CALL,
    OffloadError: _Rule(_BROKEN, _ERROR, "The work failed."),
}
# For an error without a rule of its own: what became of the call.
_BY_OUTCOME: dict[Outcome, _Rule] = {
    Outcome.REFUSED: _RULES[QueueFullError],
    Outcome.NOT_STARTED: _RULES[WorkerStartError],
    Outcome.TIMED_OUT: _RULES[TaskTimeoutError],
    Outcome.CANCELLED: _RULES[TaskKilledError],
    Outcome.CRASHED: _RULES[WorkerCrashedError],
}

# Which of several errors decides what the client is told. One that has left reads no answer.
# Otherwise it is the worst: to come back later mends a refusal, and none of the others.
_WORST_FIRST = (
    CLIENT_CLOSED_REQUEST,
    _BROKEN,
    _LATE,
    HTTPStatus.CONFLICT,
    HTTPStatus.NOT_FOUND,
    _BUSY,
)


@overload
def answer_to(error: OffloadError) -> Answer: ...
@overload
def answer_to(error: Exception) -> Answer | None: ...
def answer_to(error: Exception) -> Answer | None:
    """Return what to tell the client of a request that ended with `error`.

    Of several calls at once in a task group, whose errors come as an `ExceptionGroup`, one decides:
    499 goes before 500, that before 504, then 409 and 404, and 503 comes last; among equals the one
    with the highest `level`, then the first. `may_have_run` is true if any of the calls that failed
    may have run, `level` is the highest of all, and `Retry-After` the longest.

    Args:
        error: an error of ours, or a group of them, of groups too.

    Returns:
        The answer; None if the error is not ours, or there is one in the group that is not: such an
        error is the application's business.
    """
    errors = errors_in(error)
    if not errors:
        return None
    decisive = decisive_of(errors)
    rule = _rule_of(decisive)
    headers: dict[str, str] = {}
    if rule.status == _BUSY:
        # Whole seconds by RFC 9110, section 10.2.3; "0" would invite a storm of retries.
        seconds = max(map(_retry_after, errors))
        headers["Retry-After"] = str(math.ceil(min(max(seconds, 1.0), _MAX_RETRY_AFTER)))
    # Our own class, not an application's subclass of it: names of its code stay in the server.
    kinds = type(decisive).__mro__
    kind = next(kind for kind in kinds if kind.__module__.partition(".")[0] == _OURS)
    return Answer(
        status=int(rule.status),
        headers=headers,
        detail=rule.detail,
        error=kind.__name__,
        may_have_run=any(each.may_have_run for each in errors),
        level=max(_rule_of(each).level for each in errors),
    )


def errors_in(error: BaseException) -> list[OffloadError]:
    """Return an error of ours, or all of a group of them; nothing, if there are others in it."""
    if isinstance(error, OffloadError):
        return [error]
    found: list[OffloadError] = []
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            inside = errors_in(each)
            if not inside:
                return []
            found += inside
    return found


def decisive_of(errors: Sequence[OffloadError]) -> OffloadError:
    """Return the one of several errors that decides what the client is told; see `answer_to`."""

    def weight(error: OffloadError) -> tuple[int, int]:
        rule = _rule_of(error)
        return _WORST_FIRST.index(rule.status), -rule.level

    return min(errors, key=weight)


def _rule_of(error: OffloadError) -> _Rule:
    for kind in type(error).__mro__:
        if kind in _RULES and kind is not OffloadError:
            return _RULES[kind]
    return _BY_OUTCOME.get(error.outcome, _RULES[OffloadError])


def _retry_after(error: OffloadError) -> float:
    return float(getattr(error, "retry_after", _DEFAULT_RETRY_AFTER))

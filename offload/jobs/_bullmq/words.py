"""What the operations of both servers have in common."""

from __future__ import annotations

import json
import math
import secrets
from itertools import count
from typing import TYPE_CHECKING, Final

from offload.jobs._bullmq.names import from_bullmq, raw_id, to_bullmq
from offload.jobs._errors import JobConflictError, JobNotFoundError, JobQueueFullError
from offload.jobs._value_json import encode_error
from offload.jobs._values import AttemptOutcome, Cancel, Complete, Fail, Release, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from offload.jobs._values import Claim, Ending

__all__ = [
    "LAPSED",
    "claim_id",
    "ending_words",
    "id_words",
    "in_turns",
    "milliseconds",
    "new_token",
    "not_found",
    "queue_full",
    "requeue_conflict",
]

_TOKEN_BYTES: Final = 9
_turns: Final = count()
LAPSED: Final = (
    "worker program %s did not extend its lease in time: it died, was stopped or was cut off",
    "offload.jobs.LeaseLapsedError",
)


def new_token() -> str:
    """Return what nobody else has."""
    return secrets.token_hex(_TOKEN_BYTES)


def in_turns(queues: Iterable[str]) -> list[str]:
    """Return queues as they are kept, each first in its turn: none starves the others."""
    names = [to_bullmq(queue) for queue in queues]
    first = next(_turns) % max(len(names), 1)
    return names[first:] + names[:first]


def milliseconds(lease: float) -> int:
    """Return a lease in ms."""
    # Redis takes no expiry of 0.
    return max(math.ceil(lease * 1000), 1)


def id_words(ids: Sequence[str]) -> list[str]:
    """Return each id as ours are kept, and as BullMQ may have counted it."""
    return [word for job_id in ids for word in (to_bullmq(job_id), raw_id(job_id))]


def claim_id(claim: Claim) -> tuple[str, str, str]:
    """Return queue, id and token of a claim as they are kept."""
    queue, token = to_bullmq(claim.queue), claim.token
    if token.endswith("!"):
        return queue, claim.id, token[:-1]
    return queue, to_bullmq(claim.id), token


def ending_words(ending: Ending) -> tuple[str | int, ...]:
    """Return kind, outcome, attempts, crashes, value, error, stack and delay in us."""
    match ending:
        case Complete(result):
            return "complete", "completed", 1, 0, result, "", "", 0
        case Release():
            return "release", "released", 0, 0, "", "", "", 0
        case Cancel():
            return "cancel", "cancelled", 0, 0, "", "", "", 0
        case Fail(error, outcome) | Retry(error, outcome=outcome):
            delay = ending.delay if isinstance(ending, Retry) else 0.0
            kind = "fail" if isinstance(ending, Fail) else "delay" if delay > 0 else "retry"
            is_crash = outcome is AttemptOutcome.CRASHED
            stack = json.dumps([error.traceback] if error.traceback else [])
            return (
                kind,
                outcome.value,
                int(not is_crash),
                int(is_crash),
                error.message,
                encode_error(error) or "",
                stack,
                round(delay * 1_000_000),
            )


def not_found(job_id: str) -> JobNotFoundError:
    """Return the error of an unknown job."""
    return JobNotFoundError(
        f"there is no job {job_id!r}: there never was, or its retention has ended", job_id=job_id
    )


def requeue_conflict(job_id: str, state: str) -> JobConflictError:
    """Return the error of a job that cannot be requeued."""
    return JobConflictError(
        f"job {job_id!r} is {state}; only failed and cancelled jobs can be requeued",
        job_id=job_id,
        state=state,
    )


def queue_full(bullmq_queue: str, limit: int, length: int) -> JobQueueFullError:
    """Return the error of a queue that would be too long."""
    queue = from_bullmq(bullmq_queue)
    return JobQueueFullError(
        f"queue {queue!r} may have {limit} waiting jobs, and would have {length}: run more worker "
        "programs, or enqueue less",
        queue=queue,
        limit=limit,
    )

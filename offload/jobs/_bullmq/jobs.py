"""A job as BullMQ has it.

Our jobs are ordinary ones of BullMQ: `name` is the function, `data` the arguments as JSON,
`returnvalue` the result, and `opts` has `attempts`, `backoff`, `delay`, `priority`, `jobId`,
`deduplication` and `keepLogs`, so that workers of BullMQ run them and its tools list them. What
BullMQ has no field for is in further fields of the job's hash, which it leaves alone:

    o:put        options, trace and producer, as JSON
    o:number     counts up with each job: the order of arrival, whatever its queue
    o:position   its place among waiting jobs, where that is not `o:number`; see lua/placing.lua
    o:keep       seconds to be kept after the end; empty: for ever
    o:deadline   ms since the epoch, and the same in words
    o:due        us since the epoch, of a delayed job; BullMQ has ms
    o:token      of the present attempt; the lock, which BullMQ has too, goes with the lease
    o:cancel     whether the active job was cancelled
    o:cancelled  whether the job, which BullMQ has as failed, was cancelled
    o:crashes    counter; BullMQ's `atm` is `attempts`, its `ats` is `starts`, its `pb` the worker
    o:history    attempts that have ended without completing, a line of JSON each
    o:error      type, message and traceback as JSON; BullMQ has `failedReason` and `stacktrace`

Beside the queues, under the prefix with `-offload` behind it: `queues`, which there are; `jobs`,
all by number; `forget` and `deadlines`, jobs by time; `examined`, up to when jobs that are over
were looked at; `news`, a stream that tells of new queues; `number`. Queues have `o:parked`; see
lua/claiming.lua.

Priorities have the other sign there: BullMQ takes small numbers first. A worker of BullMQ's takes
jobs without priority before all others, and thereby before ours of a priority above 0.
"""

from __future__ import annotations

import asyncio
import json
import math
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._bullmq.names import from_bullmq, raw_id, to_bullmq
from offload.jobs._unreadable import UNREADABLE, checked, unreadable
from offload.jobs._value_json import decode_error, decode_options, encode_options, headers_of
from offload.jobs._values import (
    Attempt,
    AttemptOutcome,
    Backoff,
    Claim,
    Claimed,
    JobError,
    JobOptions,
    JobRecord,
    JobState,
    LogLine,
    Unique,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offload.jobs._values import NewJob

__all__ = [
    "bullmq_options",
    "claimed_job",
    "decode_log",
    "encode_log",
    "encode_put",
    "instant",
    "job_words",
    "microseconds",
    "new_claim",
    "record",
    "records",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_STATES: Final = {state.value: state for state in JobState}
_MAX_LIST: Final = 1024
_MINIMUM_PARTS: Final = 3
# Less than a millisecond.
_RECORDS_AT_ONCE: Final = 25


def microseconds(instant: datetime) -> int:
    """Return microseconds since the epoch."""
    return (instant - _EPOCH) // _MICROSECOND


def instant(milliseconds: float) -> datetime:
    """Return the instant that is so many milliseconds after the epoch."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _instant(milliseconds: str | None) -> datetime | None:
    return None if not milliseconds else instant(float(milliseconds))


# To BullMQ


@lru_cache(_MAX_LIST)
def bullmq_options(options: JobOptions) -> str:
    """Return BullMQ's options as JSON: what its own workers go by.

    Defaults are left out: Redis keeps a hash in a third of the space if no value is long.
    """
    data: dict[str, Any] = {}
    if options.max_attempts > 1:
        backoff = options.backoff
        kind = "fixed" if backoff.factor == 1.0 else "exponential"
        delay = round(backoff.initial * 1000)
        data["attempts"] = options.max_attempts
        data["backoff"] = {"type": kind, "delay": delay, "jitter": backoff.jitter}
    if options.max_logs != JobOptions().max_logs:
        data["kl"] = options.max_logs
    return json.dumps(data, separators=(",", ":"))


def encode_put(options: JobOptions, trace: Mapping[str, str], enqueued_by: str) -> str:
    """Return what is kept as it was put."""
    return (
        f'{{"options":{encode_options(options)},"trace":{json.dumps(dict(trace))},'
        f'"by":{json.dumps(enqueued_by)}}}'
    )


@lru_cache(_MAX_LIST)
def _decode_put(text: str) -> tuple[JobOptions, Mapping[str, str], str]:
    data = json.loads(text)
    return decode_options(json.dumps(data["options"])), headers_of(data["trace"]), data["by"]


def job_words(job: NewJob) -> list[str | int]:
    """Return a job as the script `put` takes it."""
    options = job.options
    unique = options.unique
    lifetime: int | str = ""
    if unique is not None and unique.lifetime is not None:
        lifetime = max(round(unique.lifetime * 1000), 1)
    deadline = ""
    if options.deadline is not None:
        at = math.ceil(microseconds(options.deadline) / 1000)
        deadline = f"{at} {options.deadline.isoformat()}"
    return [
        to_bullmq(job.queue),
        to_bullmq(job.id),
        raw_id(job.id),
        job.function,
        job.arguments,
        bullmq_options(options),
        -options.priority,
        "" if job.due_at is None else microseconds(job.due_at),
        "" if unique is None else unique.key,
        lifetime,
        deadline,
        encode_put(options, job.trace, job.enqueued_by),
        "" if options.keep is None else repr(float(options.keep)),
    ]


# From BullMQ


def _foreign_options(fields: Mapping[str, str]) -> JobOptions:
    """Return the options of a job that a producer of BullMQ's has put."""
    data: dict[str, Any] = json.loads(fields.get("opts") or "{}")
    given: Any = data.get("backoff") or 0
    wait: dict[str, Any] = given if isinstance(given, dict) else {"type": "fixed", "delay": given}
    factor = 1.0 if wait.get("type") == "fixed" else 2.0
    backoff = Backoff(wait.get("delay", 0) / 1000, factor, jitter=wait.get("jitter") or 0.0)
    unique = None
    key: dict[str, Any] = data.get("de") or {}
    if "id" in key:
        unique = Unique(key["id"], key["ttl"] / 1000 if key.get("ttl") else None)
    return JobOptions(
        priority=-int(data.get("priority") or 0),
        max_attempts=max(int(data.get("attempts") or 1), 1),
        backoff=backoff,
        keep=None,
        unique=unique,
        max_logs=data.get("kl") or JobOptions().max_logs,
    )


def _error(fields: Mapping[str, str]) -> JobError | None:
    error = decode_error(fields.get("o:error"))
    reason = fields.get("failedReason")
    if reason is None or "o:cancelled" in fields or (error is not None and error.message == reason):
        return error
    # By a worker of BullMQ's.
    stack: list[str] = json.loads(fields.get("stacktrace") or "[]")
    return JobError("Error", reason, stack[-1] if stack else "")


def _history(fields: Mapping[str, str]) -> list[Attempt]:
    attempts: list[Attempt] = []
    for line in fields.get("o:history", "").split("\n"):
        outcome, started, ended, worker, error = json.loads(line)
        attempts.append(
            Attempt(
                AttemptOutcome(outcome),
                _EPOCH + timedelta(milliseconds=started),
                _EPOCH + timedelta(milliseconds=ended),
                worker,
                decode_error(error or None),
            )
        )
    return attempts


def _due(fields: Mapping[str, str], due_ms: str) -> datetime | None:
    exact = fields.get("o:due")
    if exact is not None:
        return _EPOCH + timedelta(microseconds=int(exact))
    return _instant(due_ms)


def record(found: Sequence[Any]) -> JobRecord:
    """Return the record of a job that a script has returned, as `snapshot` of common.lua does."""
    queue, bullmq_id, state_name, _, _, kept = found
    # Redis has them flat.
    fields: dict[str, str] = (
        kept if isinstance(kept, dict) else dict(zip(kept[::2], kept[1::2], strict=True))
    )
    try:
        return checked(_record(found, fields))
    except UNREADABLE as error:
        state = _STATES.get(state_name, JobState.FAILED)
        name = fields.get("name", "")
        failure = fields.get("o:error")
        return unreadable(from_bullmq(bullmq_id), from_bullmq(queue), name, state, failure, error)


def _record(found: Sequence[Any], fields: Mapping[str, str]) -> JobRecord:
    queue, bullmq_id, state_name, log_count, due_ms, _ = found
    state = _STATES[state_name]
    put = fields.get("o:put")
    if put is not None:
        options, trace, enqueued_by = _decode_put(put)
    else:
        options, trace, enqueued_by = _foreign_options(fields), {}, ""
    started = _instant(fields.get("processedOn"))
    ended = _instant(fields.get("finishedOn")) if state.is_over else None
    worker = fields.get("pb", "")
    past = _history(fields) if "o:history" in fields else []
    error = result = None
    if state is JobState.COMPLETED:
        result = fields.get("returnvalue", "null")
        if started is not None and ended is not None:
            past.append(Attempt(AttemptOutcome.COMPLETED, started, ended, worker))
    elif "o:error" in fields or "failedReason" in fields:
        error = _error(fields)
    return JobRecord(
        id=from_bullmq(bullmq_id),
        function=fields.get("name", ""),
        arguments=fields.get("data", "{}"),
        queue=from_bullmq(queue),
        options=options,
        state=state,
        created_at=instant(int(fields.get("timestamp", 0))),
        due_at=_due(fields, due_ms) if state is JobState.DELAYED else None,
        started_at=started,
        ended_at=ended,
        attempts=int(fields.get("atm", 0)),
        crashes=int(fields.get("o:crashes", 0)),
        starts=int(fields.get("ats", 0)),
        worker=worker,
        progress=fields.get("progress"),
        result=result,
        error=error,
        history=tuple(past),
        log_count=log_count,
        is_cancel_asked="o:cancel" in fields,
        enqueued_by=enqueued_by,
        trace=trace,
    )


async def records(found: Iterable[Sequence[Any] | None]) -> list[JobRecord | None]:
    """Return the records of many jobs, without holding the loop."""
    read: list[JobRecord | None] = []
    for number, each in enumerate(found, 1):
        read.append(None if each is None else record(each))
        if number % _RECORDS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return read


def claimed_job(found: Sequence[Any]) -> Claimed:
    """Return a claim that a script has returned: queue, id, token, log lines and fields."""
    queue, bullmq_id, token, log_count, flat = found
    return new_claim(record((queue, bullmq_id, "active", log_count, "", flat)), bullmq_id, token)


def new_claim(job: JobRecord, bullmq_id: str, token: str) -> Claimed:
    """Return a claim of a job."""
    # An id that BullMQ counted up is told from ours of the same digits by the claim.
    if to_bullmq(job.id) != bullmq_id:
        token += "!"
    return Claimed(Claim(job.id, job.queue, token), job)


# Log lines: rows of text that BullMQ's tools show.


def encode_log(line: LogLine) -> str:
    """Return a log line as a row."""
    return f"{line.at.astimezone(UTC).isoformat()} {line.level} {line.message}"


def decode_log(row: str) -> LogLine:
    """Return the line of a row, which may be of a worker of BullMQ's."""
    parts = row.split(" ", 2)
    if len(parts) == _MINIMUM_PARTS and parts[1].isdecimal():
        try:
            return LogLine(datetime.fromisoformat(parts[0]), int(parts[1]), parts[2])
        except ValueError:
            pass
    return LogLine(_EPOCH, 20, row)

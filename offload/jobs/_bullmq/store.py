"""The operations of the seam on Redis: a script each, with its words and its reply."""

from __future__ import annotations

import json
import math
import secrets
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._bullmq.jobs import claimed_job, decode_log, encode_log, job_words, record
from offload.jobs._bullmq.names import from_bullmq, raw_id, to_bullmq
from offload.jobs._errors import JobConflictError, JobNotFoundError, JobQueueFullError
from offload.jobs._value_json import encode_error
from offload.jobs._values import (
    AttemptOutcome,
    Cancel,
    CancelOutcome,
    Complete,
    Count,
    Extended,
    Fail,
    Finished,
    JobState,
    Page,
    Release,
    Retry,
    Swept,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from offload.jobs._bullmq.client import RedisClient
    from offload.jobs._values import (
        Claim,
        Claimed,
        Ending,
        JobRecord,
        LogLine,
        NewJob,
        Query,
        Wanted,
    )

__all__ = ["RedisStore"]

_TOKEN_BYTES: Final = 9
# Jobs per script where all of a queue are looked through: about a millisecond of the server.
_STEP: Final = 1000
_STATES: Final = {
    "wait": JobState.WAITING,
    "prioritized": JobState.WAITING,
    "delayed": JobState.DELAYED,
    "active": JobState.ACTIVE,
    "completed": JobState.COMPLETED,
    "failed": JobState.FAILED,
}
_LAPSED: Final = (
    "worker %s did not extend its claim in time: it died, was stopped or was cut off",
    "offload.jobs.LeaseLapsedError",
)


class RedisStore:
    """Jobs in Redis. Methods as in `offload.jobs._engine.Engine`, on one asyncio loop.

    Args:
        client: to run scripts by.
    """

    def __init__(self, client: RedisClient) -> None:
        self._client: Final = client
        self._run: Final = client.run
        # Functions that a worker program wants do not change, and may be many.
        self._functions: dict[frozenset[str], str] = {}

    # Producers

    async def put(self, jobs: Sequence[NewJob], max_queued: int | None) -> tuple[str, ...]:
        """Put jobs in one script."""
        words: list[str | int] = ["" if max_queued is None else max_queued]
        for job in jobs:
            words += job_words(job)
        kind, *rest = await self._run("put", *words, can_repeat=True)
        if kind == "full":
            queue, limit = from_bullmq(rest[0]), max_queued or 0
            raise JobQueueFullError(
                f"queue {queue!r} may have {limit} waiting jobs, and would have {rest[1]}: run "
                "more worker programs, or enqueue less",
                queue=queue,
                limit=limit,
            )
        return tuple(map(from_bullmq, rest[0]))

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Read jobs."""
        if not ids:
            return ()
        found = await self._run("get", *_id_words(ids), is_read=True)
        return tuple(None if each is None else record(each) for each in found)

    async def logs(self, job_id: str, start: int, limit: int) -> tuple[LogLine, ...]:
        """Read log lines."""
        if limit < 1:
            return ()
        last = start + limit - 1
        rows = await self._run("logs", *_id_words([job_id]), start, last, is_read=True)
        return tuple(map(decode_log, rows))

    async def find(self, query: Query) -> Page:
        """Look through the index, step by step, until the page is full."""
        if query.cursor is None:
            await self._adopt()
        cursor = query.cursor or ""
        jobs: list[JobRecord] = []
        while True:
            found, cursor = await self._run(
                "find",
                "1" if query.is_oldest_first else "0",
                query.limit - len(jobs),
                cursor,
                query.id_prefix,
                _among(query.states),
                _among(map(to_bullmq, query.queues)),
                _among(query.functions),
            )
            jobs += map(record, found)
            if not cursor or len(jobs) == query.limit:
                # The script has looked for one more: without it the page would be the last.
                return Page(tuple(jobs), cursor or None)

    async def _adopt(self) -> None:
        """Have jobs in the index that producers of BullMQ's have put."""
        totals, indexed = await self._run("totals", is_read=True)
        if sum(count for _, _, count in totals) == indexed:
            return
        for queue, state, count in totals:
            for start in range(0, count, _STEP):
                await self._run("adopt", queue, state, start, start + _STEP - 1)

    async def counts(self, queues: Collection[str] | None) -> tuple[Count, ...]:
        """Count, step by step."""
        totals, _ = await self._run("totals", is_read=True)
        found: dict[tuple[str, str, JobState], int] = {}
        for bullmq_queue, key, total in totals:
            queue = from_bullmq(bullmq_queue)
            if queues is not None and queue not in queues:
                continue
            for start in range(0, total, _STEP):
                for name, is_cancelled, count in await self._run(
                    "count", bullmq_queue, key, start, start + _STEP - 1, is_read=True
                ):
                    state = JobState.CANCELLED if is_cancelled == "1" else _STATES[key]
                    slot = (queue, name, state)
                    found[slot] = found.get(slot, 0) + count
        return tuple(Count(*slot, count) for slot, count in sorted(found.items()))

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel, or ask for it."""
        outcome = await self._run("cancel", *_id_words([job_id]))
        if outcome == "unknown":
            raise _not_found(job_id)
        return CancelOutcome(outcome)

    async def requeue(self, job_id: str) -> None:
        """Have a job run again."""
        state = await self._run("requeue", *_id_words([job_id]))
        if state == "unknown":
            raise _not_found(job_id)
        if state:
            raise JobConflictError(
                f"job {job_id!r} is {state}; only failed and cancelled jobs can be requeued",
                job_id=job_id,
                state=state,
            )

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget jobs."""
        count: int = await self._run("remove", *_id_words(list(dict.fromkeys(ids))))
        return count

    # Worker programs

    def _claim_words(self, wanted: Wanted) -> list[str | int]:
        functions = self._functions.get(wanted.functions)
        if functions is None:
            functions = self._functions[wanted.functions] = _among(wanted.functions)
        return [
            wanted.worker,
            _milliseconds(wanted.lease),
            wanted.limit,
            secrets.token_hex(_TOKEN_BYTES),
            functions,
            *map(to_bullmq, wanted.queues),
        ]

    async def claim(
        self, wanted: Wanted, undo: Callable[[Any], None]
    ) -> tuple[tuple[Claimed, ...], float | None]:
        """Claim, and return also the seconds after which it is worth to look again, if known."""
        if not wanted.functions or not wanted.queues:
            return (), None
        words = self._claim_words(wanted)
        while True:
            found, soon, again = await self._run("claim", *words, undo=undo)
            if found or not again:
                return tuple(map(claimed_job, found)), None if soon < 0 else soon / 1000

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended:
        """Extend claims."""
        if not claims:
            return Extended()
        held = list(claims)
        words = [word for claim in held for word in _claim_id(claim)]
        replies = await self._run("extend", _milliseconds(lease), *words, can_repeat=True)
        pairs = list(zip(held, replies, strict=True))
        return Extended(
            frozenset(claim for claim, reply in pairs if reply == "lost"),
            frozenset(claim for claim, reply in pairs if reply == "cancelled"),
        )

    async def finish(
        self, claim: Claim, ending: Ending, then: Wanted | None, undo: Callable[[Any], None]
    ) -> Finished:
        """End an attempt, and claim what is next."""
        words = [*_claim_id(claim), *_ending_words(ending)]
        if then is None or not then.functions or not then.queues:
            (stored,) = await self._run("finish", *words)
            return Finished(stored == 1)
        words += self._claim_words(then)
        stored, (found, _, _) = await self._run("finish", *words, undo=lambda reply: undo(reply[1]))
        return Finished(stored == 1, tuple(map(claimed_job, found)))

    async def progress(self, claim: Claim, value: str) -> bool:
        """Keep progress."""
        return bool(await self._run("progress", *_claim_id(claim), value))

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Keep log lines."""
        return bool(await self._run("log", *_claim_id(claim), *map(encode_log, lines)))

    # Care

    async def sweep(self) -> Swept:
        """Sweep, batch by batch."""
        retried: list[str] = []
        failed: list[str] = []
        cancelled: list[str] = []
        more = 1
        while more:
            *ids, more = await self._run("sweep", *_LAPSED)
            for kept, new in zip((retried, failed, cancelled), ids, strict=True):
                kept += map(from_bullmq, new)
        return Swept(tuple(retried), tuple(failed), tuple(cancelled))

    async def prune(self, max_over: int | None) -> int:
        """Prune, batch by batch."""
        pruned = 0
        while True:
            seen, count = await self._run("prune", "" if max_over is None else max_over)
            pruned += count
            if not seen:
                return pruned

    async def pause(self, queue: str, *, is_paused: bool) -> None:
        """Pause or resume."""
        state = "paused" if is_paused else "resumed"
        await self._run("pause", to_bullmq(queue), state, can_repeat=True)

    async def paused(self) -> frozenset[str]:
        """Read which are paused."""
        return frozenset(map(from_bullmq, await self._run("paused", is_read=True)))


def _milliseconds(lease: float) -> int:
    # Redis takes no expiry of 0.
    return max(math.ceil(lease * 1000), 1)


def _among(names: Any) -> str:
    """Return names as scripts look for them, each between line ends."""
    text = "\n".join(names)
    return f"\n{text}\n" if text else ""


def _id_words(ids: Sequence[str]) -> list[str]:
    return [word for job_id in ids for word in (to_bullmq(job_id), raw_id(job_id))]


def _claim_id(claim: Claim) -> tuple[str, str, str]:
    queue, token = to_bullmq(claim.queue), claim.token
    if token.endswith("!"):
        return queue, claim.id, token[:-1]
    return queue, to_bullmq(claim.id), token


def _ending_words(ending: Ending) -> tuple[str | int, ...]:
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


def _not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(
        f"there is no job {job_id!r}: there never was, or its retention has ended", job_id=job_id
    )

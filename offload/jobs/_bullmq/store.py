"""The operations of the seam on Redis: a script each, with its words and its reply."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._bullmq.jobs import claimed_job, decode_log, encode_log, job_words, records
from offload.jobs._bullmq.names import from_bullmq, to_bullmq
from offload.jobs._bullmq.words import (
    LAPSED,
    claim_id,
    ending_words,
    id_words,
    in_turns,
    milliseconds,
    new_token,
    not_found,
    queue_full,
    requeue_conflict,
)
from offload.jobs._ended import Ended, EndedCount
from offload.jobs._values import CancelOutcome, Count, Extended, Finished, JobState, Page, Swept

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from offload.jobs._bullmq.client import RedisClient
    from offload.jobs._notes import Swap
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

    def claimed(self, found: Sequence[Any]) -> Claimed:
        """Return a claim out of a script's reply."""
        return claimed_job(found)

    # Producers

    async def put(self, jobs: Sequence[NewJob], max_queued: int | None) -> tuple[str, ...]:
        """Put jobs in one script."""
        words: list[str | int] = ["" if max_queued is None else max_queued]
        for job in jobs:
            words += job_words(job)
        kind, *rest = await self._run("put", *words, can_repeat=True)
        if kind == "full":
            raise queue_full(rest[0], max_queued or 0, rest[1])
        return tuple(map(from_bullmq, rest[0]))

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Read jobs."""
        if not ids:
            return ()
        found = await self._run("get", *id_words(ids), is_read=True)
        return tuple(await records(found))

    async def logs(self, job_id: str, start: int, limit: int) -> tuple[LogLine, ...]:
        """Read log lines."""
        if limit < 1:
            return ()
        last = start + limit - 1
        rows = await self._run("logs", *id_words([job_id]), start, last, is_read=True)
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
            jobs += [job for job in await records(found) if job is not None]
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

    async def ended(self, step: int, steps: int) -> Ended:
        """Count by the sorted sets, a queue at a time; only failed jobs are looked at."""
        seconds, microseconds = await self._client.command("TIME")
        last = int(seconds) // step * step
        totals, _ = await self._run("totals", is_read=True)
        found: Counter[tuple[str, JobState, int]] = Counter()
        for bullmq_queue, key, total in totals:
            state = _STATES[key]
            offset: int | None = 0 if total and state.is_over else None
            while offset is not None:
                counts, *more = await self._run(
                    *("ended", bullmq_queue, key, step, last, steps, offset), is_read=True
                )
                for at, is_cancelled, count in counts:
                    of = JobState.CANCELLED if is_cancelled == "1" else state
                    found[from_bullmq(bullmq_queue), of, int(at)] += count
                offset = more[0] if more else None
        now = int(seconds) + int(microseconds) / 1e6
        return Ended(now, tuple(EndedCount(*slot, count) for slot, count in found.items()))

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel, or ask for it."""
        outcome = await self._run("cancel", *id_words([job_id]))
        if outcome == "unknown":
            raise not_found(job_id)
        return CancelOutcome(outcome)

    async def requeue(self, job_id: str) -> None:
        """Have a job run again."""
        state = await self._run("requeue", *id_words([job_id]))
        if state == "unknown":
            raise not_found(job_id)
        if state:
            raise requeue_conflict(job_id, state)

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget jobs."""
        count: int = await self._run("remove", *id_words(list(dict.fromkeys(ids))))
        return count

    # Worker programs

    def _claim_words(self, wanted: Wanted) -> list[str | int]:
        functions = self._functions.get(wanted.functions)
        if functions is None:
            functions = self._functions[wanted.functions] = _among(wanted.functions)
        return [
            wanted.worker,
            milliseconds(wanted.lease),
            wanted.limit,
            new_token(),
            functions,
            *in_turns(wanted.queues),
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
        words = [word for claim in held for word in claim_id(claim)]
        replies = await self._run("extend", milliseconds(lease), *words, can_repeat=True)
        pairs = list(zip(held, replies, strict=True))
        return Extended(
            frozenset(claim for claim, reply in pairs if reply == "lost"),
            frozenset(claim for claim, reply in pairs if reply == "cancelled"),
        )

    async def finish(
        self,
        reports: Sequence[tuple[Claim, Ending]],
        then: Wanted | None,
        undo: Callable[[Any], None],
    ) -> Finished:
        """End attempts in one script, and claim what is next."""
        words: list[str | int] = [len(reports)]
        for claim, ending in reports:
            words += claim_id(claim)
            words += ending_words(ending)
        if then is None or not then.functions or not then.queues:
            (stored,) = await self._run("finish", *words)
            return Finished(tuple(each == 1 for each in stored))
        words += self._claim_words(then)
        stored, (found, _, _) = await self._run("finish", *words, undo=lambda reply: undo(reply[1]))
        return Finished(tuple(each == 1 for each in stored), tuple(map(claimed_job, found)))

    async def progress(self, claim: Claim, value: str) -> bool:
        """Keep progress."""
        return bool(await self._run("progress", *claim_id(claim), value))

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Keep log lines."""
        return bool(await self._run("log", *claim_id(claim), *map(encode_log, lines)))

    # Care

    async def sweep(self) -> Swept:
        """Sweep, batch by batch."""
        retried: list[str] = []
        failed: list[str] = []
        cancelled: list[str] = []
        more = 1
        while more:
            *ids, more = await self._run("sweep", *LAPSED)
            for kept, new in zip((retried, failed, cancelled), ids, strict=True):
                kept.extend(map(from_bullmq, new))
        return Swept(tuple(retried), tuple(failed), tuple(cancelled))

    async def prune(self, max_over: int | None) -> int:
        """Prune, batch by batch."""
        pruned: int = 0
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

    # Notes

    async def read_notes(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Read notes."""
        if not names:
            return ()
        return tuple(await self._run("notes", *names, is_read=True))

    async def find_notes(self, prefix: str) -> dict[str, str]:
        """Read all that begin so."""
        words = await self._run("notes_by_prefix", prefix, is_read=True)
        return dict(zip(words[::2], words[1::2], strict=True))

    async def swap_notes(self, swaps: Sequence[Swap]) -> tuple[bool, ...]:
        """Change notes in one script."""
        words: list[str | int] = []
        for swap in swaps:
            lifetime = "" if swap.lifetime is None else max(milliseconds(swap.lifetime), 1)
            words += [swap.name, _optional(swap.expected), _optional(swap.value), lifetime]
        if not words:
            return ()
        return tuple(each == 1 for each in await self._run("swap_notes", *words, can_repeat=True))


def _optional(text: str | None) -> str:
    return "0" if text is None else f"1{text}"


def _among(names: Any) -> str:
    """Return names as scripts look for them, each between line ends."""
    text = "\n".join(names)
    return f"\n{text}\n" if text else ""

"""The operations of the seam on Postgres: a function of sql/ each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import psycopg

from offload.jobs._bullmq.jobs import decode_log, encode_log, job_words, new_claim, record, records
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
    from typing import LiteralString

    from offload.jobs._bullmq.pg_client import PostgresClient
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

__all__ = ["PostgresStore"]

_FROM: Final = (
    "FROM job j LEFT JOIN offload_job o ON o.queue = j.queue AND o.id = j.id"  # never changes
)

_NO_CLAIM: Final = (None, None, None, None, None, None)


def _claim_words(wanted: Wanted) -> tuple[Any, ...]:
    return (
        wanted.worker,
        milliseconds(wanted.lease),
        wanted.limit,
        new_token(),
        list(wanted.functions),
        in_turns(wanted.queues),
    )


# A queue and a state at a time: that is how BullMQ's index of what has ended begins.
_ENDED: Final = """
SELECT t.now_ms, q.queue, e.state, e.at, e.count
FROM (SELECT offload_now() AS now_ms) t
LEFT JOIN (offload_queue q CROSS JOIN unnest(ARRAY['completed', 'failed']::job_state[]) s(state))
  ON true
LEFT JOIN LATERAL (
  SELECT offload_state(j, o) AS state, j.finished_at_ms / 1000 / %(step)s * %(step)s AS at, count(*)
  FROM job j LEFT JOIN offload_job o
    ON s.state = 'failed' AND o.queue = j.queue AND o.id = j.id
  WHERE j.queue = q.queue AND j.state = s.state AND j.state IN ('completed', 'failed')
    AND j.finished_at_ms >= (t.now_ms / 1000 / %(step)s - %(steps)s + 1) * %(step)s * 1000
  GROUP BY 1, 2
) e ON true
"""


class PostgresStore:
    """Jobs in Postgres. Methods as in `offload.jobs._engine.Engine`, on one asyncio loop.

    Args:
        client: to run statements by.
    """

    def __init__(self, client: PostgresClient) -> None:
        self._run: Final = client.run

    async def _value(self, statement: LiteralString, *arguments: Any, is_read: bool = False) -> Any:
        rows = await self._run(statement, arguments, is_read=is_read)
        return rows[0][0]

    def claimed(self, found: Sequence[Any]) -> Claimed:
        """Return a claim out of a reply: token and job."""
        token, job = found
        return new_claim(record(job), job[1], token)

    # Producers

    async def put(self, jobs: Sequence[NewJob], max_queued: int | None) -> tuple[str, ...]:
        """Put jobs."""
        words = json.dumps([list(map(str, job_words(job))) for job in jobs])
        try:
            ids = await self._value("SELECT offload_put(%s::jsonb, %s)", words, max_queued)
        except psycopg.Error as error:
            queue, length = json.loads(error.diag.message_primary or "[]")
            raise queue_full(queue, max_queued or 0, length) from None
        return tuple(map(from_bullmq, ids))

    async def get(self, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
        """Read jobs."""
        if not ids:
            return ()
        words = id_words(ids)
        rows = await self._run(
            "SELECT u.n, offload_snapshot(j, o) FROM unnest(%s::text[], %s::text[]) "
            "WITH ORDINALITY u(id, raw, n), LATERAL offload_find(u.id, u.raw) f JOIN job j "
            "ON j.queue = f.queue AND j.id = f.id "
            "LEFT JOIN offload_job o ON o.queue = j.queue AND o.id = j.id",
            (words[::2], words[1::2]),
            is_read=True,
        )
        jobs = await records(job for _, job in rows)
        found = {number: job for (number, _), job in zip(rows, jobs, strict=True)}
        return tuple(found.get(number) for number in range(1, len(ids) + 1))

    async def logs(self, job_id: str, start: int, limit: int) -> tuple[LogLine, ...]:
        """Read log lines."""
        rows = await self._run(
            "SELECT l.row FROM offload_find(%s, %s) f JOIN job_log l ON l.queue = f.queue "
            "AND l.job_id = f.id ORDER BY l.idx OFFSET %s LIMIT %s",
            (*id_words([job_id]), start, limit),
            is_read=True,
        )
        return tuple(decode_log(row) for (row,) in rows)

    async def find(self, query: Query) -> Page:
        """Read one page."""
        if query.cursor is None:
            await self._run("SELECT offload_adopt()", ())
        parts: list[LiteralString] = [
            "SELECT o.number, offload_snapshot(j, o)",
            _FROM,
            "WHERE true",
        ]
        values: list[Any] = []
        if query.states:
            parts.append("AND offload_state(j, o) = ANY (%s)")
            values.append([state.value for state in query.states])
        if query.queues:
            parts.append("AND j.queue = ANY (%s)")
            values.append([to_bullmq(queue) for queue in query.queues])
        if query.functions:
            parts.append("AND j.name = ANY (%s)")
            values.append(list(query.functions))
        if query.cursor is not None:
            parts.append("AND o.number > %s" if query.is_oldest_first else "AND o.number < %s")
            values.append(int(query.cursor))
        parts.append("ORDER BY o.number" if query.is_oldest_first else "ORDER BY o.number DESC")
        if not query.id_prefix:
            parts.append("LIMIT %s")
            values.append(query.limit + 1)
        rows = await self._run(" ".join(parts), values, is_read=True)
        found = [
            (number, job) for number, job in rows if from_bullmq(job[1]).startswith(query.id_prefix)
        ]
        page = found[: query.limit]
        cursor = str(page[-1][0]) if len(found) > query.limit else None
        jobs = await records(job for _, job in page)
        return Page(tuple(job for job in jobs if job is not None), cursor)

    async def counts(self, queues: Collection[str] | None) -> tuple[Count, ...]:
        """Count."""
        rows = await self._run(
            f"SELECT j.queue, j.name, offload_state(j, o), count(*) {_FROM} GROUP BY 1, 2, 3",
            (),
            is_read=True,
        )
        return tuple(
            Count(from_bullmq(queue), name, JobState(state), count)
            for queue, name, state, count in sorted(rows)
            if queues is None or from_bullmq(queue) in queues
        )

    async def ended(self, step: int, steps: int) -> Ended:
        """Count, by BullMQ's index of when jobs ended."""
        rows = await self._run(_ENDED, {"step": step, "steps": steps}, is_read=True)
        return Ended(
            rows[0][0] / 1000,
            tuple(
                EndedCount(from_bullmq(queue), JobState(state), at, count)
                for _, queue, state, at, count in rows
                if count is not None
            ),
        )

    async def cancel(self, job_id: str) -> CancelOutcome:
        """Cancel, or ask for it."""
        outcome = await self._value("SELECT offload_cancel(%s, %s)", *id_words([job_id]))
        if outcome == "unknown":
            raise not_found(job_id)
        return CancelOutcome(outcome)

    async def requeue(self, job_id: str) -> None:
        """Have a job run again."""
        state = await self._value("SELECT offload_requeue(%s, %s)", *id_words([job_id]))
        if state == "unknown":
            raise not_found(job_id)
        if state:
            raise requeue_conflict(job_id, state)

    async def remove(self, ids: Sequence[str]) -> int:
        """Forget jobs."""
        words = id_words(list(dict.fromkeys(ids)))
        count: int = await self._value(
            "SELECT offload_remove(%s::text[], %s::text[])", words[::2], words[1::2]
        )
        return count

    # Worker programs

    async def claim(
        self, wanted: Wanted, undo: Callable[[Any], None]
    ) -> tuple[tuple[Claimed, ...], float | None]:
        """Claim, and return also the seconds after which it is worth to look again, if known."""
        if not wanted.functions or not wanted.queues:
            return (), None
        rows = await self._run(
            "SELECT offload_claim(%s, %s, %s, %s, %s::text[], %s::text[])",
            _claim_words(wanted),
            undo=undo,
        )
        found, soon = rows[0][0]
        return tuple(map(self.claimed, found)), None if soon is None else soon / 1000

    async def extend(self, claims: Collection[Claim], lease: float) -> Extended:
        """Extend claims."""
        if not claims:
            return Extended()
        held = list(claims)
        queues, ids, tokens = zip(*map(claim_id, held), strict=True)
        found = await self._value(
            "SELECT offload_extend(%s, %s::text[], %s::text[], %s::text[])",
            milliseconds(lease),
            list(queues),
            list(ids),
            list(tokens),
        )
        pairs = [(claim, found.get(str(number))) for number, claim in enumerate(held, 1)]
        return Extended(
            frozenset(claim for claim, is_cancelled in pairs if is_cancelled is None),
            frozenset(claim for claim, is_cancelled in pairs if is_cancelled),
        )

    async def finish(
        self,
        reports: Sequence[tuple[Claim, Ending]],
        then: Wanted | None,
        undo: Callable[[Any], None],
    ) -> Finished:
        """End attempts, and claim what is next, in one transaction."""
        words = json.dumps([claim_id(claim) + ending_words(ending) for claim, ending in reports])
        follows = then is not None and bool(then.functions and then.queues)
        rows = await self._run(
            "SELECT offload_finish_all(%s::jsonb, %s, %s, %s, %s, %s::text[], %s::text[])",
            (words, *(_claim_words(then) if then is not None and follows else _NO_CLAIM)),
            undo=(lambda reply: undo(reply[1])) if follows else None,
        )
        stored, claimed = rows[0][0]
        return Finished(
            tuple(stored[str(number)] for number in range(1, len(reports) + 1)),
            tuple(map(self.claimed, claimed[0])) if claimed else (),
        )

    async def progress(self, claim: Claim, value: str) -> bool:
        """Keep progress."""
        stored: bool = await self._value(
            "SELECT offload_progress(%s, %s, %s, %s)", *claim_id(claim), value
        )
        return stored

    async def log(self, claim: Claim, lines: Sequence[LogLine]) -> bool:
        """Keep log lines."""
        stored: bool = await self._value(
            "SELECT offload_log(%s, %s, %s, %s::text[])",
            *claim_id(claim),
            [encode_log(line) for line in lines],
        )
        return stored

    # Care

    async def sweep(self) -> Swept:
        """Sweep, batch by batch."""
        retried: list[str] = []
        failed: list[str] = []
        cancelled: list[str] = []
        while True:
            found = await self._value("SELECT offload_sweep(%s, %s)", *LAPSED)
            for kept, new in zip((retried, failed, cancelled), found, strict=True):
                kept.extend(map(from_bullmq, new))
            if not any(found):
                return Swept(tuple(retried), tuple(failed), tuple(cancelled))

    async def prune(self, max_over: int | None) -> int:
        """Prune, batch by batch."""
        pruned = 0
        while count := await self._value("SELECT offload_prune(%s)", max_over):
            pruned += count
        return pruned

    async def pause(self, queue: str, *, is_paused: bool) -> None:
        """Pause or resume."""
        await self._run("SELECT pause(%s, %s)", (to_bullmq(queue), is_paused))

    async def paused(self) -> frozenset[str]:
        """Read which are paused."""
        rows = await self._run("SELECT queue FROM meta WHERE field = 'paused'", (), is_read=True)
        return frozenset(from_bullmq(queue) for (queue,) in rows)

    # Notes

    async def read_notes(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Read notes."""
        rows = await self._run(
            "SELECT name, value FROM offload_note WHERE name = ANY (%s) "
            "AND (until_ms IS NULL OR until_ms > offload_now())",
            (list(names),),
            is_read=True,
        )
        found = dict(rows)
        return tuple(found.get(name) for name in names)

    async def find_notes(self, prefix: str) -> dict[str, str]:
        """Read all that begin so."""
        rows = await self._run(
            "SELECT name, value FROM offload_note WHERE name >= %s AND name < %s "
            "AND until_ms IS NULL",
            (prefix, prefix + "\U0010ffff"),
            is_read=True,
        )
        return dict(rows)

    async def swap_notes(self, swaps: Sequence[Swap]) -> tuple[bool, ...]:
        """Change notes in one transaction."""
        if not swaps:
            return ()
        words = [
            (
                swap.name,
                swap.expected,
                swap.value,
                None if swap.lifetime is None else max(milliseconds(swap.lifetime), 1),
            )
            for swap in swaps
        ]
        found = await self._value("SELECT offload_swap_notes(%s::jsonb)", json.dumps(words))
        return tuple(found[str(number)] for number in range(1, len(words) + 1))

"""Operations that only read. They neither wait for writers nor keep them waiting."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._ended import Ended, EndedCount
from offload.jobs._sqlite.clock import from_seconds
from offload.jobs._sqlite.rows import RECORD, record
from offload.jobs._sqlite.schema import STATE_NUMBERS, STATES
from offload.jobs._values import Count, JobState, LogLine, Page

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Sequence

    from offload.jobs._values import JobRecord, Query

__all__ = ["counts", "ended", "find", "get", "logs", "paused"]

# SQLite uses a partial index only where its condition stands in the query, to the letter.
_INDICES: Final = {
    JobState.WAITING: ("jobs_waiting", "state = 0"),
    JobState.DELAYED: ("jobs_delayed", "state = 1"),
    JobState.ACTIVE: ("jobs_active", "state = 2"),
}
# Those indices do not have the order of pages. Up to this many jobs are sorted; beyond it, jobs
# are looked through in that order until the page is full, which is soon where so many match.
_FEW: Final = 5000


def get(connection: sqlite3.Connection, ids: Sequence[str]) -> tuple[JobRecord | None, ...]:
    """Return records, in the order of ids."""
    found: dict[str, JobRecord | None] = {}
    for job_id in ids:
        if job_id not in found:
            row = connection.execute(RECORD + " WHERE id = ?", (job_id,)).fetchone()
            found[job_id] = None if row is None else record(connection, row)
    return tuple(found[job_id] for job_id in ids)


def logs(
    connection: sqlite3.Connection, job_id: str, start: int, limit: int
) -> tuple[LogLine, ...]:
    """Return log lines."""
    rows = connection.execute(
        "SELECT at, level, message FROM logs WHERE seq = (SELECT seq FROM jobs WHERE id = ?) "
        "AND number >= ? ORDER BY number LIMIT ?",
        (job_id, start, limit),
    )
    return tuple(LogLine(from_seconds(at), level, message) for at, level, message in rows)


def find(connection: sqlite3.Connection, query: Query) -> Page:
    """Return one page: that many of each state, merged."""
    conditions, values = _conditions(query)
    order = "ASC" if query.is_oldest_first else "DESC"
    parts = [
        connection.execute(
            f"{_select(source)} WHERE {' AND '.join([state_is, *conditions])} "
            f"ORDER BY seq {order} LIMIT ?",
            (*values, query.limit + 1),
        ).fetchall()
        for source, state_is in _sources(connection, query)
    ]
    rows = list(heapq.merge(*parts, key=lambda row: row[0], reverse=not query.is_oldest_first))
    page = rows[: query.limit]
    cursor = str(page[-1][0]) if len(rows) > query.limit else None
    return Page(tuple(record(connection, row) for row in page), cursor)


def _select(source: str) -> str:
    return RECORD.replace(" FROM jobs ", f" FROM {source} ")


def _sources(connection: sqlite3.Connection, query: Query) -> list[tuple[str, str]]:
    """Return, for each state, where to look for its jobs and its condition."""
    if query.id_prefix:
        numbers = ", ".join(str(STATE_NUMBERS[state]) for state in query.states or JobState)
        return [("jobs", f"state IN ({numbers})")]
    if not query.states:
        return [("jobs NOT INDEXED", "1")]
    sources: list[tuple[str, str]] = []
    for state in query.states:
        number = STATE_NUMBERS[state]
        if state.is_over:
            sources.append(("jobs INDEXED BY jobs_over", f"state >= 3 AND state = {number}"))
            continue
        index, condition = _INDICES[state]
        (count,) = connection.execute(
            "SELECT total(jobs) FROM counts WHERE state = ?", (number,)
        ).fetchone()
        source = f"jobs INDEXED BY {index}" if count <= _FEW else "jobs NOT INDEXED"
        sources.append((source, condition))
    return sources


def _conditions(query: Query) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    for column, wanted in (("queue", query.queues), ("function", query.functions)):
        if wanted:
            conditions.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values += wanted
    if query.id_prefix:
        # The last character that there is: whatever begins with the prefix comes before it.
        conditions.append("id >= ? AND id < ?")
        values += [query.id_prefix, query.id_prefix + "\U0010ffff"]
    if query.cursor is not None:
        conditions.append("seq > ?" if query.is_oldest_first else "seq < ?")
        values.append(int(query.cursor))
    return conditions, values


def counts(connection: sqlite3.Connection, queues: Collection[str] | None) -> tuple[Count, ...]:
    """Return counts that are not 0."""
    rows = connection.execute(
        "SELECT queue, function, state, jobs FROM counts WHERE jobs > 0 "
        "ORDER BY queue, function, state"
    )
    return tuple(
        Count(queue, function, STATES[state], jobs)
        for queue, function, state, jobs in rows
        if queues is None or queue in queues
    )


def ended(connection: sqlite3.Connection, step: int, steps: int, now: float) -> Ended:
    """Return how many jobs ended in each of the last steps of time."""
    first = (int(now) // step - steps + 1) * step
    rows = connection.execute(
        "SELECT queue, state, at / ? * ?, sum(jobs) FROM ended WHERE at >= ? GROUP BY 1, 2, 3",
        (step, step, first),
    )
    return Ended(
        now,
        tuple(EndedCount(queue, STATES[state], at, count) for queue, state, at, count in rows),
    )


def paused(connection: sqlite3.Connection) -> frozenset[str]:
    """Return paused queues."""
    return frozenset(queue for (queue,) in connection.execute("SELECT queue FROM paused"))

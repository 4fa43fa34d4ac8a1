"""Operations of worker programs."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from offload.jobs._decisions import settle
from offload.jobs._sqlite.clock import from_seconds, to_seconds
from offload.jobs._sqlite.endings import expire_now, store, store_completed
from offload.jobs._sqlite.rows import HELD, HELD_WITH_TOKEN, RECORD, Held, batched, places, record
from offload.jobs._sqlite.schema import STATE_NUMBERS
from offload.jobs._value_json import decode_options
from offload.jobs._values import (
    Claim,
    Claimed,
    Complete,
    EventKind,
    Extended,
    Finished,
    JobEvent,
    JobOptions,
    JobState,
    Release,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from offload.jobs._decisions import Settlement
    from offload.jobs._sqlite.transaction import Transaction
    from offload.jobs._values import Ending, LogLine, Wanted

__all__ = ["claim", "extend", "finish", "glance", "log", "progress", "promote", "release"]

_WAITING: Final = STATE_NUMBERS[JobState.WAITING]
_DELAYED: Final = STATE_NUMBERS[JobState.DELAYED]
_ACTIVE: Final = STATE_NUMBERS[JobState.ACTIVE]
_TOKEN_BYTES: Final = 12
# At once, which others have to wait for: some 20 ms of work. The next claim promotes more.
_PROMOTED: Final = 1000

Pair = tuple[str, str]


def glance(connection: sqlite3.Connection, wanted: Wanted, now: float) -> tuple[float | None, bool]:
    """Look, without a transaction, when `claim` could next find something, and if it can now."""
    waiting, delayed = _pairs(connection, wanted)
    if waiting:
        return None, True
    dues = [due for pair in delayed if (due := _next_due(connection, pair)) is not None]
    due = min(dues, default=None)
    return due, due is not None and due <= now


def claim(transaction: Transaction, wanted: Wanted) -> tuple[Claimed, ...]:
    """Claim up to `wanted.limit` jobs."""
    transaction.save_claimable()
    waiting, delayed = _pairs(transaction.connection, wanted)
    waiting.update(pair for pair in delayed if promote(transaction, pair))
    claimed: list[Claimed] = []
    # More than one round only where jobs turn out to have expired.
    while missing := wanted.limit - len(claimed):
        found = _first(transaction.connection, waiting, missing)
        if not found:
            break
        seqs: list[int] = []
        for seq, deadline in found:
            if isinstance(deadline, float) and deadline <= transaction.now:
                _expire(transaction, seq, deadline)
            else:
                seqs.append(seq)
        for chunk in batched(seqs):
            claimed += _claim_these(transaction, chunk, wanted)
    return tuple(claimed)


def _pairs(connection: sqlite3.Connection, wanted: Wanted) -> tuple[set[Pair], set[Pair]]:
    """Return queues and functions that have waiting jobs, and those that have delayed ones."""
    found: tuple[set[Pair], set[Pair]] = set(), set()
    for state, queue, function in connection.execute(
        "SELECT state, queue, function FROM counts WHERE state <= 1 AND jobs > 0 "
        "AND queue NOT IN (SELECT queue FROM paused)"
    ):
        if queue in wanted.queues and function in wanted.functions:
            found[state].add((queue, function))
    return found


def _next_due(connection: sqlite3.Connection, pair: Pair) -> float | None:
    row = connection.execute(
        "SELECT due_at FROM jobs WHERE state = 1 AND queue = ? AND function = ? "
        "ORDER BY due_at LIMIT 1",
        pair,
    ).fetchone()
    # Anything else was not written by us, and is never due.
    return row[0] if row is not None and isinstance(row[0], float) else None


def promote(transaction: Transaction, pair: Pair) -> bool:
    """Have delayed jobs that are due wait, a batch in order of time; return if there are."""
    due = transaction.connection.execute(
        "SELECT seq, id FROM jobs WHERE state = 1 AND queue = ? AND function = ? AND due_at <= ? "
        "ORDER BY due_at, position LIMIT ?",
        (*pair, transaction.now, _PROMOTED),
    ).fetchall()
    for seq, job_id in due:
        transaction.connection.execute(
            "UPDATE jobs SET state = ?, due_at = NULL, position = ? WHERE seq = ?",
            (_WAITING, transaction.next_position(), seq),
        )
        transaction.left(*pair, _DELAYED)
        transaction.entered(job_id, *pair, _WAITING)
    return bool(due)


def _first(
    connection: sqlite3.Connection, pairs: Iterable[Pair], limit: int
) -> list[tuple[int, float | None]]:
    """Return the first waiting jobs over all pairs, with deadlines: a walk down an index each."""
    found: list[tuple[int, int, int, float | None]] = []
    for pair in pairs:
        found += connection.execute(
            "SELECT -priority, CAST(position AS INTEGER), seq, deadline FROM jobs "
            "WHERE state = 0 AND queue = ? AND function = ? "
            "ORDER BY priority DESC, position LIMIT ?",
            (*pair, limit),
        )
    # Positions differ, so that deadlines are never compared.
    found.sort()
    return [(seq, deadline) for _, _, seq, deadline in found[:limit]]


def _expire(transaction: Transaction, seq: int, deadline: float) -> None:
    row = transaction.connection.execute(HELD + " WHERE seq = ?", (seq,)).fetchone()
    expire_now(transaction, Held.of(row), deadline)


def _claim_these(
    transaction: Transaction, seqs: Sequence[int], wanted: Wanted
) -> Iterator[Claimed]:
    """Claim waiting jobs: two statements, however many they are."""
    connection = transaction.connection
    # New for each of them, and nobody can guess it.
    token, among = secrets.token_hex(_TOKEN_BYTES), places(len(seqs))
    connection.execute(
        "UPDATE jobs SET state = ?, token = ? || seq, lease = ?, leased_until = ?, worker = ?, "  # noqa: S608
        f"started_at = ?, starts = starts + 1, progress = NULL WHERE seq IN {among}",
        (
            _ACTIVE,
            f"{token}.",
            wanted.lease,
            transaction.monotonic + wanted.lease,
            wanted.worker,
            transaction.now,
            *seqs,
        ),
    )
    rows = {row[0]: row for row in connection.execute(f"{RECORD} WHERE seq IN {among}", seqs)}
    for seq in seqs:
        job = record(connection, rows[seq])
        transaction.left(job.queue, job.function, _WAITING)
        transaction.entered(job.id, job.queue, job.function, _ACTIVE)
        yield Claimed(Claim(job.id, job.queue, f"{token}.{seq}"), job)


def extend(transaction: Transaction, held: Iterable[Claim], lease: float) -> Extended:
    """Extend all claims that are valid."""
    lost: list[Claim] = []
    cancelled: list[Claim] = []
    valid: list[tuple[float, float, int]] = []
    until = transaction.monotonic + lease
    for each in held:
        row: tuple[int, int] | None = transaction.connection.execute(
            "SELECT seq, is_cancel_asked FROM jobs WHERE id = ? AND token = ? AND state = 2",
            (each.id, each.token),
        ).fetchone()
        if row is None:
            lost.append(each)
            continue
        valid.append((lease, until, row[0]))
        if row[1]:
            cancelled.append(each)
    transaction.connection.executemany(
        "UPDATE jobs SET lease = ?, leased_until = ? WHERE seq = ?", valid
    )
    return Extended(frozenset(lost), frozenset(cancelled))


def finish(
    transaction: Transaction, reports: Sequence[tuple[Claim, Ending]], then: Wanted | None
) -> Finished:
    """Store endings, and claim what is next."""
    held = _held(transaction, [each for each, _ in reports])
    now = from_seconds(transaction.now)
    stored: list[bool] = []
    completed: list[tuple[Held, Settlement, str | None]] = []
    for each, ending in reports:
        # Of two reports of one claim the second is late.
        job = held.pop((each.id, each.token), None)
        stored.append(job is not None)
        if job is None:
            continue
        settlement = settle(job.standing(), ending, now=now)
        if isinstance(ending, Complete):
            completed.append((job, settlement, ending.result))
        else:
            store(transaction, job, settlement)
    store_completed(transaction, completed)
    return Finished(tuple(stored), () if then is None else claim(transaction, then))


def _held(transaction: Transaction, held: Sequence[Claim]) -> dict[tuple[str, str], Held]:
    """Return active jobs by id and token of their claim: the fence that reports have to pass."""
    found: dict[tuple[str, str], Held] = {}
    for chunk in batched([each.id for each in held]):
        for token, *rest in transaction.connection.execute(
            f"{HELD_WITH_TOKEN} WHERE id IN {places(len(chunk))} AND state = 2", chunk
        ):
            job = Held.of(tuple(rest))
            found[job.id, token] = job
    return found


def release(transaction: Transaction, held: Iterable[Claim]) -> None:
    """Hand claims back that nobody has received."""
    finish(transaction, [(each, Release()) for each in held], None)


def progress(transaction: Transaction, held: Claim, value: str) -> bool:
    """Keep the latest progress."""
    cursor = transaction.connection.execute(
        "UPDATE jobs SET progress = ? WHERE id = ? AND token = ? AND state = 2",
        (value, held.id, held.token),
    )
    if not cursor.rowcount:
        return False
    transaction.events.append(JobEvent(EventKind.PROGRESS, held.id, held.queue))
    return True


def log(transaction: Transaction, held: Claim, lines: Sequence[LogLine]) -> bool:
    """Keep log lines, up to the job's limit."""
    connection = transaction.connection
    row: tuple[Any, ...] | None = connection.execute(
        "SELECT seq, logs, options FROM jobs JOIN bodies USING (seq) "
        "WHERE id = ? AND token = ? AND state = 2",
        (held.id, held.token),
    ).fetchone()
    if row is None:
        return False
    seq, count, options = row
    try:
        max_logs = decode_options(options).max_logs
    except ValueError:  # the attempt fails for it
        max_logs = JobOptions().max_logs
    kept = lines[: max(max_logs - count, 0)]
    connection.executemany(
        "INSERT INTO logs VALUES (?, ?, ?, ?, ?)",
        [
            (seq, number, to_seconds(line.at), line.level, line.message)
            for number, line in enumerate(kept, count)
        ],
    )
    if kept:
        connection.execute("UPDATE jobs SET logs = ? WHERE seq = ?", (count + len(kept), seq))
        transaction.events.append(JobEvent(EventKind.LOG, held.id, held.queue))
    return True

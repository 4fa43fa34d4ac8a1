"""Operations that keep the store in order."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from offload.jobs._decisions import lapse
from offload.jobs._ended import ENDED_SECONDS
from offload.jobs._sqlite.claims import promote
from offload.jobs._sqlite.endings import expire_now, forget, store
from offload.jobs._sqlite.rows import HELD, Held
from offload.jobs._sqlite.transaction import ANY_FUNCTION
from offload.jobs._values import JobState, Swept

if TYPE_CHECKING:
    import sqlite3

    from offload.jobs._sqlite.transaction import Transaction

__all__ = [
    "BATCH",
    "NOTHING",
    "is_full",
    "joined",
    "needs_sweep",
    "pause",
    "prune",
    "resume",
    "sweep",
]

# Jobs per transaction, which others have to wait for: some 50 ms of work.
BATCH: Final = 1000

# Lapsed; or of before a reboot, when the clock began anew: no lease reaches further than it is
# long. A second is allowed for rounding.
_LAPSED: Final = (
    "state = 2 AND (leased_until <= :monotonic OR leased_until - lease > :monotonic + 1)"
)
_EXPIRED: Final = "deadline IS NOT NULL AND state < 2 AND deadline <= :now"
_DUE: Final = "state = 1 AND due_at <= :now"
_STALE_KEY: Final = "until IS NOT NULL AND until <= :now"

NOTHING: Final = Swept()


def is_full(swept: Swept) -> bool:
    """Return whether there may be more than that one batch."""
    return len(swept.retried) + len(swept.failed) + len(swept.cancelled) >= BATCH


def joined(first: Swept, second: Swept) -> Swept:
    """Return what two batches found."""
    return Swept(
        first.retried + second.retried,
        first.failed + second.failed,
        first.cancelled + second.cancelled,
    )


def needs_sweep(connection: sqlite3.Connection, now: float, monotonic: float) -> bool:
    """Return whether `sweep` would find something, without a transaction."""
    row = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM jobs WHERE {_LAPSED}) "  # noqa: S608 - constants
        f"OR EXISTS (SELECT 1 FROM jobs WHERE {_EXPIRED}) "
        f"OR EXISTS (SELECT 1 FROM jobs WHERE {_DUE}) "
        f"OR EXISTS (SELECT 1 FROM unique_keys WHERE {_STALE_KEY})",
        {"now": now, "monotonic": monotonic},
    ).fetchone()
    return bool(row[0])


def sweep(transaction: Transaction) -> Swept:
    """End lapsed attempts, fail expired jobs, and have due jobs wait; a batch of each."""
    times = {"now": transaction.now, "monotonic": transaction.monotonic}
    connection = transaction.connection
    found: dict[JobState, list[str]] = {state: [] for state in JobState}
    for row in connection.execute(f"{HELD} WHERE {_LAPSED} LIMIT {BATCH}", times).fetchall():
        job = Held.of(row)
        settlement = lapse(job.standing(), job.worker)
        store(transaction, job, settlement)
        found[settlement.state].append(job.id)
    # Of a job whose attempt has just lapsed, as well.
    for seq, deadline in connection.execute(
        f"SELECT seq, deadline FROM jobs WHERE {_EXPIRED} LIMIT {BATCH}",  # noqa: S608
        times,
    ).fetchall():
        job = Held.of(connection.execute(HELD + " WHERE seq = ?", (seq,)).fetchone())
        expire_now(transaction, job, deadline)
        if job.id in found[JobState.WAITING]:
            found[JobState.WAITING].remove(job.id)
        found[JobState.FAILED].append(job.id)
    for pair in connection.execute(
        f"SELECT DISTINCT queue, function FROM jobs WHERE {_DUE}",  # noqa: S608
        times,
    ).fetchall():
        promote(transaction, pair)
    connection.execute(f"DELETE FROM unique_keys WHERE {_STALE_KEY}", times)  # noqa: S608
    return Swept(
        tuple(found[JobState.WAITING]),
        tuple(found[JobState.FAILED]),
        tuple(found[JobState.CANCELLED]),
    )


def prune(transaction: Transaction, max_over: int | None) -> int:
    """Forget a batch of jobs whose retention has ended, or that are too many."""
    connection = transaction.connection
    columns = "seq, queue, function, state"
    old = connection.execute(
        f"SELECT {columns} FROM jobs "  # noqa: S608 - a constant
        "WHERE forget_at IS NOT NULL AND forget_at <= ? LIMIT ?",
        (transaction.now, BATCH),
    ).fetchall()
    forget(transaction, old)
    transaction.save_counts()
    if max_over is not None and len(old) < BATCH:
        (over,) = connection.execute("SELECT total(jobs) FROM counts WHERE state >= 3").fetchone()
        excess = min(int(over) - max_over, BATCH)
        if excess > 0:
            # By state and not by one query, which would sort all jobs that are over.
            ordered = [
                connection.execute(
                    f"SELECT {columns} FROM jobs WHERE state >= 3 AND state = ? "  # noqa: S608
                    "ORDER BY seq LIMIT ?",
                    (state, excess),
                ).fetchall()
                for state in (3, 4, 5)
            ]
            first = list(heapq.merge(*ordered))[:excess]
            forget(transaction, first)
            old += first
    connection.execute("DELETE FROM counts WHERE jobs = 0")
    connection.execute("DELETE FROM ended WHERE at < ?", (transaction.now - ENDED_SECONDS,))
    return len(old)


def pause(transaction: Transaction, queue: str) -> None:
    """Give no jobs of a queue."""
    transaction.connection.execute("INSERT OR IGNORE INTO paused VALUES (?)", (queue,))


def resume(transaction: Transaction, queue: str) -> None:
    """End a pause."""
    transaction.connection.execute("DELETE FROM paused WHERE queue = ?", (queue,))
    transaction.rings.add((queue, ANY_FUNCTION))

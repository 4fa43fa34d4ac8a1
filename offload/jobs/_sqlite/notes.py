"""Notes: small texts by name, beside the jobs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from offload.jobs._notes import Swap
    from offload.jobs._sqlite.store import Store
    from offload.jobs._sqlite.transaction import Transaction

__all__ = ["SqliteNotes"]

# Notes that each change forgets, of those whose lifetime is over: more than it can add.
_FORGET: Final = 2


class SqliteNotes:
    """Notes in an SQLite file. See `offload.jobs._engine.Notes`.

    Args:
        store: of the file.
    """

    def __init__(self, store: Store) -> None:
        self._store: Final = store

    async def read(self, names: Sequence[str]) -> tuple[str | None, ...]:
        """Read notes."""
        now = self._store.clock.now()
        return await self._store.read(partial(_read, names=names, now=now))

    async def find(self, prefix: str) -> dict[str, str]:
        """Read all that begin so."""
        return await self._store.read(partial(_find, prefix=prefix))

    async def swap(self, swaps: Sequence[Swap]) -> tuple[bool, ...]:
        """Change notes in one transaction."""
        return await self._store.write(partial(_swap, swaps=swaps))


def _read(
    connection: sqlite3.Connection, names: Sequence[str], now: float
) -> tuple[str | None, ...]:
    return tuple(_value(connection, name, now) for name in names)


def _value(connection: sqlite3.Connection, name: str, now: float) -> str | None:
    row = connection.execute(
        "SELECT value FROM notes WHERE name = ? AND (until IS NULL OR until > ?)", (name, now)
    ).fetchone()
    return None if row is None else str(row[0])


def _find(connection: sqlite3.Connection, prefix: str) -> dict[str, str]:
    # By the key and not by LIKE, which would look at every note.
    return dict(
        connection.execute(
            "SELECT name, value FROM notes WHERE name >= ? AND name < ? AND until IS NULL",
            (prefix, prefix + "\U0010ffff"),
        )
    )


def _swap(transaction: Transaction, swaps: Sequence[Swap]) -> tuple[bool, ...]:
    connection, now = transaction.connection, transaction.now
    for _ in swaps:
        connection.execute(
            "DELETE FROM notes WHERE name IN (SELECT name FROM notes WHERE until IS NOT NULL "
            "AND until <= ? LIMIT ?)",
            (now, _FORGET),
        )
    return tuple(_swap_one(connection, each, now) for each in swaps)


def _swap_one(connection: sqlite3.Connection, swap: Swap, now: float) -> bool:
    if _value(connection, swap.name, now) not in (swap.expected, swap.value):
        return False
    if swap.value is None:
        connection.execute("DELETE FROM notes WHERE name = ?", (swap.name,))
    else:
        until = None if swap.lifetime is None else now + swap.lifetime
        connection.execute(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (swap.name, swap.value, until)
        )
    return True

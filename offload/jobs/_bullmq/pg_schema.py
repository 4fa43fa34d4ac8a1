"""Tables and functions in a Postgres database: BullMQ's, and ours beside them."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast

if TYPE_CHECKING:
    import psycopg

__all__ = ["migrate"]

# One up with each change of the files in sql/. Functions are replaced, tables are added to.
_VERSION: Final = 5
# BullMQ's own lock: its programs and ours migrate one after the other.
_BULLMQ_LOCK: Final = 0x42554C4C
_OURS: Final = os.path.join(os.path.dirname(__file__), "sql")
_MISSING: Final = (
    "jobs on Postgres need the `bullmq` and `psycopg` packages: install the extra, as in "
    "pip install 'offload[postgres]'"
)


def _bullmq_files() -> list[str]:
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_MISSING, name="bullmq")
    directory = os.path.join(spec.submodule_search_locations[0], "postgres", "migrations")
    return sorted(
        os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".sql")
    )


def _read(path: str) -> LiteralString:
    # To mypy a literal string is any; pyright, and psycopg, tell them apart.
    with open(path, encoding="utf-8") as file:
        return cast("LiteralString", file.read())  # type: ignore[redundant-cast]


async def migrate(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Bring the database up to date, or create it: all of it or nothing.

    As BullMQ's own program does it, so that either may come first.
    """
    quoted = cast("LiteralString", f'"{schema}"')  # type: ignore[redundant-cast]
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_BULLMQ_LOCK, schema)
        )
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
        await connection.execute(f"SET LOCAL search_path TO {quoted}")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migration (version integer PRIMARY KEY, "
            "name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        done = await _number(connection, "SELECT COALESCE(max(version), 0) FROM migration")
        for path in _bullmq_files():
            name = os.path.basename(path)
            version = int(name.split("_", 1)[0])
            if version > done:
                await connection.execute(_read(path))
                await connection.execute(
                    "INSERT INTO migration (version, name) VALUES (%s, %s)", (version, name)
                )
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS offload_version (version integer NOT NULL)"
        )
        if await _number(connection, "SELECT COALESCE(max(version), 0) FROM offload_version") < (
            _VERSION
        ):
            for file in ("schema", "functions", "functions_2", "notes"):
                await connection.execute(_read(os.path.join(_OURS, file + ".sql")))
            await connection.execute("INSERT INTO offload_version VALUES (%s)", (_VERSION,))


async def _number(connection: psycopg.AsyncConnection[Any], query: LiteralString) -> int:
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return int(row[0])

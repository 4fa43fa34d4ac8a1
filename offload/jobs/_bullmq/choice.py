"""Which engine a URL means. Imports what that needs, and nothing before."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offload.jobs._bullmq.engine import BullmqEngine

__all__ = ["new_engine"]


def new_engine(url: str) -> BullmqEngine:
    """Return an engine that is not open yet.

    Args:
        url: `redis://…`, `rediss://…`, or `postgresql://…`, which is a preview; see `location` and
            `pg_location`.

    Raises:
        ImportError: the extra `redis` or `postgres` is not installed.
        ValueError: the URL is wrong.
    """
    scheme = url.partition("://")[0]
    if scheme in ("redis", "rediss"):
        _need("redis", "bullmq", "hiredis")
        from offload.jobs._bullmq.redis_engine import RedisEngine

        return RedisEngine(url)
    if scheme in ("postgresql", "postgres"):
        _need("postgres", "bullmq", "psycopg")
        from offload.jobs._bullmq.postgres_engine import PostgresEngine

        return PostgresEngine(url)
    raise ValueError(f"{scheme}:// is neither redis://, rediss:// nor postgresql://")


def _need(extra: str, *packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"jobs on {extra.capitalize()} need {' and '.join(missing)}: install the extra, as in "
            f"pip install 'offload[{extra}]'",
            name=missing[0],
        )

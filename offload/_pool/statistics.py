"""Statistics of a pool that is not open: its books, and no workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload._values.histogram import merge
from offload._values.statistics import PoolStatistics

if TYPE_CHECKING:
    from offload._pool.accounts import Accounts

__all__ = ["of_pool_at_rest"]


def of_pool_at_rest(
    name: str,
    accounts: Accounts,
    *,
    state: str,
    max_workers: int,
    max_queued: int | None,
    results: str,
) -> PoolStatistics:
    """Return the statistics of a pool that has not been opened yet, or was closed."""
    functions = accounts.statistics({})
    return PoolStatistics(
        name=name,
        state=state,
        max_workers=max_workers,
        max_queued=max_queued,
        results=results,
        wait=merge(function.wait for function in functions),
        run=merge(function.run for function in functions),
        functions=functions,
        failures=accounts.failures(),
        recycled=accounts.recycled,
        starved_seconds=accounts.starved_seconds,
        throttled_seconds=accounts.throttled_seconds,
        **accounts.totals(functions),
    )

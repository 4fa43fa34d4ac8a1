"""Counts for those who ask again and again: dashboards, and whoever scrapes metrics.

Redis and Postgres look at every job to count them. With a million jobs that takes seconds, and
twenty processes that are scraped each ten seconds would keep the store busy with nothing else.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from offload.jobs._jobs import Jobs
    from offload.jobs._values import Count

__all__ = ["RecentCounts", "recent_counts"]

# A store is asked at most for one part in so many of the time.
_SHARE: Final = 20


@dataclass(frozen=True, slots=True)
class RecentCounts:
    """What there was.

    Attributes:
        counts: by queue, function and state; None: the store has not told so far, since counting
            took longer than those who asked had.
        told_at: when it told them, as `time.monotonic()` has it; 0.0 where it has not.
        asked_at: when it was asked last.
        took: seconds that it took then, or was given.
    """

    counts: tuple[Count, ...] | None = None
    told_at: float = 0.0
    asked_at: float = float("-inf")
    took: float = 0.0


_NOTHING: Final = RecentCounts()
_last: WeakKeyDictionary[Jobs, RecentCounts] = WeakKeyDictionary()
_changed = threading.Lock()


async def recent_counts(jobs: Jobs, *, max_age: float) -> RecentCounts:
    """Return the counts of `jobs`: new ones, or those of a moment ago.

    Args:
        jobs: whose.
        max_age: seconds that they may be old; where counting takes long, they may be older.

    Raises:
        JobsUnavailableError: the store cannot be reached.

    Cancellation: where it came while the store counted, it is not asked again for a while.
    """
    with _changed:
        last = _last.get(jobs, _NOTHING)
    begin = time.monotonic()
    if begin - last.asked_at < max(max_age, _SHARE * last.took):
        return last
    try:
        counts = await jobs.counts()
    except Exception:
        raise
    except BaseException:
        now = time.monotonic()
        _note(jobs, RecentCounts(last.counts, last.told_at, now, now - begin))
        raise
    now = time.monotonic()
    return _note(jobs, RecentCounts(counts, now, now, now - begin))


def _note(jobs: Jobs, counts: RecentCounts) -> RecentCounts:
    with _changed:
        _last[jobs] = counts
    return counts

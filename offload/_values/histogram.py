"""Log-bucketed histogram of seconds: constant memory, about 9 % resolution, cheap to record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Eight buckets per doubling give bounds 2**(1/8) = 1.09 apart. One microsecond is the floor: no
# wait or run through a process is shorter. 37 doublings above it is 38 hours.
_PER_DOUBLING = 8
_FLOOR = 1e-6
_DOUBLINGS = 37
_BUCKETS = _PER_DOUBLING * _DOUBLINGS
_CEILING = _FLOOR * 2.0**_DOUBLINGS
# Few enough that counting them, about 0.1 ms, does not hold an event loop.
_FOLD_AT = 256


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A frozen view of a histogram. All values are seconds.

    Attributes:
        count: number of recorded values.
        total: their sum.
        minimum: the smallest, 0.0 where nothing was recorded.
        maximum: the largest, 0.0 where nothing was recorded.
        buckets: pairs of (upper bound in seconds, count) of the non-empty buckets, ascending.
    """

    count: int
    total: float
    minimum: float
    maximum: float
    buckets: tuple[tuple[float, int], ...]

    @property
    def mean(self) -> float:
        """Mean in seconds, 0.0 where nothing was recorded."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, fraction: float) -> float:
        """Return the value at `fraction`, at most 9 % above the true one.

        Args:
            fraction: between 0.0 and 1.0; 0.99 is the 99th percentile.

        Returns:
            Seconds; 0.0 where nothing was recorded.
        """
        if not 0.0 <= fraction <= 1.0:
            message = f"fraction must be between 0.0 and 1.0, not {fraction!r}"
            raise ValueError(message)
        wanted = max(1, math.ceil(fraction * self.count))
        seen = 0
        for bound, count in self.buckets:
            seen += count
            if seen >= wanted:
                return min(max(bound, self.minimum), self.maximum)
        return self.maximum


class Histogram:
    """Counts of seconds in logarithmic buckets.

    `record` only appends: it is on the path of each task, where code that runs once after a system
    call finds every cache cold and costs several times what it costs in a loop. The values are
    counted some hundred at a time.
    """

    __slots__ = ("_counts", "_maximum", "_minimum", "_pending", "_total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._pending: list[float] = []
        self._total = 0.0
        self._minimum = math.inf
        self._maximum = 0.0

    def record(self, seconds: float) -> None:
        """Count one value; negative ones count as zero."""
        pending = self._pending
        pending.append(seconds)
        if len(pending) >= _FOLD_AT:
            self._fold()

    def extend(self, values: list[float]) -> None:
        """Count several values at once."""
        self._pending += values
        self._fold()

    def _fold(self) -> None:
        pending = self._pending
        if not pending:
            return
        if min(pending) < 0.0:
            pending = [max(seconds, 0.0) for seconds in pending]
        self._total += sum(pending)
        self._minimum = min(self._minimum, *pending)
        self._maximum = max(self._maximum, *pending)
        counts, ceil, log2 = self._counts, math.ceil, math.log2
        for seconds in pending:
            # ceil, so that a value on a bound belongs to the bucket that it bounds.
            index = ceil(log2(seconds / _FLOOR) * _PER_DOUBLING) if seconds > _FLOOR else 0
            counts[index] = counts.get(index, 0) + 1
        if self._maximum > _CEILING:
            self._clamp()
        self._pending = []

    def _clamp(self) -> None:
        """Put what is above the last bucket into it."""
        for index in [index for index in self._counts if index > _BUCKETS]:
            self._counts[_BUCKETS] = self._counts.get(_BUCKETS, 0) + self._counts.pop(index)

    def snapshot(self) -> HistogramSnapshot:
        """Return a frozen copy."""
        self._fold()
        buckets = tuple(
            (_FLOOR * 2 ** (index / _PER_DOUBLING), count)
            for index, count in sorted(self._counts.items())
        )
        count = sum(self._counts.values())
        return HistogramSnapshot(
            count=count,
            total=self._total,
            minimum=self._minimum if count else 0.0,
            maximum=self._maximum,
            buckets=buckets,
        )


def merge(snapshots: Iterable[HistogramSnapshot]) -> HistogramSnapshot:
    """Return the snapshot of one histogram in which all values had been recorded."""
    whole = [each for each in snapshots if each.count]
    counts: dict[float, int] = {}
    for each in whole:
        # The bounds are the same floats in all of them: computed in the same way.
        for bound, count in each.buckets:
            counts[bound] = counts.get(bound, 0) + count
    return HistogramSnapshot(
        count=sum(each.count for each in whole),
        total=sum(each.total for each in whole),
        minimum=min((each.minimum for each in whole), default=0.0),
        maximum=max((each.maximum for each in whole), default=0.0),
        buckets=tuple(sorted(counts.items())),
    )

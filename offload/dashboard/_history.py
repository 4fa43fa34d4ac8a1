"""How pools did over the last day, in rings of fixed size: 1, 6 and 24 hours.

Looked at once a second on the keeper's thread, never on an event loop: how much was busy and how
much waited. Every ten seconds that is put into the rings, with what has ended meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from typing import TYPE_CHECKING, Any, ClassVar, Final

from offload._values.histogram import merge
from offload._values.outcome import Outcome
from offload._workers.keeper import keeper
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from offload._pool.window import WindowStatistics

__all__ = ["SPANS", "History", "Recorder", "Ring"]

# Seconds of one entry, and how many entries: 1, 6 and 24 hours, each as fine as a chart is wide.
_ENTRIES: Final = 360
SPANS: Final = {3600: 10, 6 * 3600: 60, 24 * 3600: 240}
_FIRST: Final = 10
_GOOD: Final = frozenset({Outcome.COMPLETED, Outcome.CANCELLED})
_COLUMNS: Final = ("rate", "bad", "busy", "workers", "queued", "run", "run_p99", "wait_p99")


class Ring:
    """The last entries of some columns of numbers. Its size never changes.

    Args:
        columns: their names.
        entries: how many.
    """

    __slots__ = ("_at", "_columns", "_next")

    def __init__(self, columns: Sequence[str], entries: int = _ENTRIES) -> None:
        self._at = array("d", [math.nan]) * entries
        self._columns = {name: array("f", [math.nan]) * entries for name in columns}
        self._next = 0

    def add(self, at: float, values: dict[str, float]) -> None:
        """Put in an entry, in place of the oldest; what has no value is not known."""
        place = self._next
        self._next = (place + 1) % len(self._at)
        self._at[place] = at
        for name, column in self._columns.items():
            column[place] = values.get(name, math.nan)

    def told(self) -> dict[str, list[float | None]]:
        """Return the entries by column, the oldest first; `at` is when each ended."""
        places = [*range(self._next, len(self._at)), *range(self._next)]
        places = [place for place in places if not math.isnan(self._at[place])]
        told: dict[str, list[float | None]] = {"at": [round(self._at[each], 1) for each in places]}
        for name, column in self._columns.items():
            told[name] = [_rounded(column[each]) for each in places]
        return told

    @property
    def size_bytes(self) -> int:
        """How much memory its numbers take."""
        arrays = (self._at, *self._columns.values())
        return sum(each.itemsize * len(each) for each in arrays)


def _rounded(value: float) -> float | None:
    # Single precision has seven digits, and a chart shows three of them.
    return None if math.isnan(value) else float(f"{value:.4g}")


class _Interval:
    """What is being gathered for the next entry of one ring."""

    def __init__(self, ring: Ring, begin: float) -> None:
        self.ring = ring
        self._windows: list[WindowStatistics] = []
        self._start(begin)

    def _start(self, begin: float) -> None:
        self.begin = begin
        self._windows.clear()
        self._looks = 0
        self._busy = 0
        self._workers = 0
        self._queued = 0

    def look(self, workers: int, busy: int, queued: int) -> None:
        """Take in what there is now: the mean of what is busy, the most of what waits."""
        self._looks += 1
        self._busy += busy
        self._workers = max(self._workers, workers)
        self._queued = max(self._queued, queued)

    def put(self, window: WindowStatistics) -> None:
        """Take in what has ended."""
        self._windows.append(window)

    def close(self, now: float, at: float) -> None:
        """Make the entry of it, and begin anew."""
        seconds = max(now - self.begin, 1e-3)
        if self._looks:
            run = merge(each.run for each in self._windows)
            wait = merge(each.wait for each in self._windows)
            ended = sum(each.ended.total() for each in self._windows)
            good = sum(each.ended[outcome] for each in self._windows for outcome in _GOOD)
            values: dict[str, float] = {
                "rate": ended / seconds,
                "bad": (ended - good) / seconds,
                "busy": self._busy / self._looks,
                "workers": self._workers,
                "queued": self._queued,
            }
            if run.count:
                values |= {"run": run.quantile(0.5), "run_p99": run.quantile(0.99)}
                values |= {"wait_p99": wait.quantile(0.99)}
            self.ring.add(at, values)
        self._start(now)


class History:
    """How one pool did: what is gathered, and the rings.

    Args:
        now: on the monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._intervals = {seconds: _Interval(Ring(_COLUMNS), now) for seconds in SPANS.values()}

    def beat(self, pool: Pool, now: float, at: float) -> None:
        """Look at the pool; put into the rings what is due.

        Args:
            pool: the pool.
            now: on the monotonic clock.
            at: the same as `time.time()`.
        """
        load = pool.load()
        if load is not None:
            for interval in self._intervals.values():
                interval.look(*load)
        if now < self._intervals[_FIRST].begin + _FIRST:
            return
        window = pool.take_window()
        for seconds, interval in self._intervals.items():
            interval.put(window)
            if now >= interval.begin + seconds:
                interval.close(now, at)

    def told(self, span: int) -> dict[str, list[float | None]]:
        """Return the ring of one of the `SPANS`."""
        return self._intervals[SPANS[span]].ring.told()

    @property
    def size_bytes(self) -> int:
        """How much memory its numbers take."""
        return sum(each.ring.size_bytes for each in self._intervals.values())


class Recorder:
    """The histories of all pools of this process, from when a dashboard wants them.

    Args:
        pools: returns the pools that there are.
    """

    _one: ClassVar[Recorder | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, pools: Callable[[], Iterable[Pool]]) -> None:
        self._pools = pools
        self._histories: dict[str, History] = {}

    @classmethod
    def started(cls) -> Recorder:
        """Return that of this process, which is at work from now on: once a second, for good."""
        with cls._lock:
            if cls._one is None:
                cls._one = cls(Pool.all)
                keeper.add_beat(cls._one.beat)
            return cls._one

    def beat(self) -> None:
        """Look at all pools; on one thread at a time."""
        now, at = time.monotonic(), time.time()
        histories: dict[str, History] = {}
        for pool in self._pools():
            history = self._histories.get(pool.name) or History(now)
            histories[pool.name] = history
            history.beat(pool, now, at)
        # Those of pools that are no more go with them.
        self._histories = histories

    def told(self, pool: str, span: int) -> dict[str, Any]:
        """Return the history of a pool over one of the `SPANS`; empty where there is none yet."""
        history = self._histories.get(pool)
        return {
            "span": span,
            "seconds": SPANS[span],
            "bytes": 0 if history is None else history.size_bytes,
            "entries": {"at": []} if history is None else history.told(span),
        }

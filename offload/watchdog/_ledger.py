"""The book of what has blocked the loops of this process: counts, places, the latest blocks."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offload._values.histogram import Histogram
from offload.watchdog._records import (
    CAUSES,
    CauseStatistics,
    PlaceStatistics,
    RouteStatistics,
    WatchdogStatistics,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from offload.watchdog._records import Block, Cause

__all__ = ["Ledger", "ledger", "place_key", "statistics"]

# Enough for every handler of a large application; a path per place, where no template is known,
# must not fill the memory.
_MAX_PLACES = 256
# Unlike places these are never forgotten, so that the counters of each only grow.
_MAX_ROUTES = 512
_OTHER_ROUTES = "other"
_MAX_RECENT = 50
# Seconds until a place that keeps on blocking is told of again.
_REPEAT_AFTER = 300.0
# Warnings per minute, of all places: a server in trouble has a log that can still be read.
_WARNINGS_PER_MINUTE = 20
_MINUTE = 60.0


@dataclass(slots=True)
class _Place:
    last: Block
    count: int = 0
    total: float = 0.0
    longest: float = 0.0
    told_at: float | None = None
    told_count: int = 0


@dataclass(slots=True)
class Ledger:
    """Counts blocks by place and decides which of them are worth a warning.

    Filled by the watching threads, read by any: never by a loop's thread while it works.

    Args:
        clock: for the rate of warnings, in seconds.
    """

    clock: Callable[[], float] = time.monotonic
    threshold: float = 0.0
    since: float = 0.0
    lags: dict[int, Callable[[], float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _lag: Histogram = field(default_factory=Histogram)
    _causes: dict[str, tuple[int, float]] = field(default_factory=dict)
    _routes: dict[tuple[str, Cause], tuple[int, float]] = field(default_factory=dict)
    _places: dict[Hashable, _Place] = field(default_factory=dict)
    _dropped: int = 0
    _recent: deque[Block] = field(default_factory=lambda: deque(maxlen=_MAX_RECENT))
    _warnings: deque[float] = field(default_factory=lambda: deque(maxlen=_WARNINGS_PER_MINUTE))

    def begin(self, number: int, threshold: float, lag: Callable[[], float]) -> None:
        """Take note of a loop that is watched; `lag` returns how late it is now."""
        with self._lock:
            self.threshold = threshold
            self.since = self.since or time.time()
            self.lags[number] = lag

    def end(self, number: int) -> None:
        """Take note that it is not watched any more."""
        with self._lock:
            self.lags.pop(number, None)

    def beats(self, lags: Iterable[float]) -> None:
        """Count how late each of some heartbeats was."""
        with self._lock:
            for lag in lags:
                self._lag.record(lag)

    def add(self, block: Block) -> str | None:
        """Count a block; return the text of a warning if it deserves one.

        The first of a place does, then one in five minutes, with how many there were.
        """
        with self._lock:
            count, seconds = self._causes.get(block.cause, (0, 0.0))
            self._causes[block.cause] = (count + 1, seconds + block.seconds)
            self._recent.append(block)
            route = self._route_of(block)
            count, seconds = self._routes.get(route, (0, 0.0))
            self._routes[route] = (count + 1, seconds + block.seconds)
            place = self._place_of(block)
            place.last = block
            place.count += 1
            place.total += block.seconds
            place.longest = max(place.longest, block.seconds)
            return self._warning(place) if self._is_worth_telling(place) else None

    def _route_of(self, block: Block) -> tuple[str, Cause]:
        route = block.route, block.cause
        if block.has_template and (route in self._routes or len(self._routes) < _MAX_ROUTES):
            return route
        return _OTHER_ROUTES, block.cause

    def _place_of(self, block: Block) -> _Place:
        key = place_key(block)
        place = self._places.pop(key, None)
        if place is None:
            place = _Place(block)
            if len(self._places) >= _MAX_PLACES:
                # The one that has been quiet for longest: each block moves its place to the end.
                self._places.pop(next(iter(self._places)))
                self._dropped += 1
        self._places[key] = place
        return place

    def _is_worth_telling(self, place: _Place) -> bool:
        now = self.clock()
        if place.told_at is not None and now - place.told_at < _REPEAT_AFTER:
            return False
        warnings = self._warnings
        if len(warnings) == warnings.maxlen and now - warnings[0] < _MINUTE:
            return False
        warnings.append(now)
        place.told_at = now
        return True

    def _warning(self, place: _Place) -> str:
        since = place.count - place.told_count
        often = "" if since == 1 else f" It happened {since} times since the last such warning."
        if place.told_count == 0 and since > 1:
            often = f" It has happened {since} times."
        place.told_count = place.count
        return f"{place.last}.{often} {place.last.advice}"

    def statistics(self) -> WatchdogStatistics:
        """Return a frozen copy of everything."""
        with self._lock:
            places = sorted(self._places.values(), key=lambda place: -place.total)
            return WatchdogStatistics(
                is_watching=bool(self.lags),
                threshold=self.threshold,
                since=self.since,
                lag=self._lag.snapshot(),
                now=max((lag() for lag in self.lags.values()), default=0.0),
                causes=tuple(
                    CauseStatistics(cause=cause, count=count, seconds=seconds)
                    for cause in CAUSES
                    for count, seconds in (self._causes.get(cause, (0, 0.0)),)
                ),
                routes=tuple(
                    RouteStatistics(route=route, cause=cause, count=count, seconds=seconds)
                    for (route, cause), (count, seconds) in sorted(self._routes.items())
                ),
                places=tuple(map(_frozen, places)),
                places_dropped=self._dropped,
                recent=tuple(self._recent),
            )


def place_key(block: Block) -> Hashable:
    """Return what two blocks of the same place have in common.

    A loop is seen at several of its lines: only where a single call waits does the line count.
    """
    line = block.line if block.cause == "blocking" else 0
    return (block.cause, block.route, block.file, block.function, line)


def _frozen(place: _Place) -> PlaceStatistics:
    last = place.last
    return PlaceStatistics(
        cause=last.cause,
        what=last.what,
        route=last.route,
        function=last.function,
        file=last.file,
        line=last.line,
        code=last.code,
        advice=last.advice,
        thread=last.thread,
        count=place.count,
        total=place.total,
        longest=place.longest,
        last_at=last.at,
        stack=last.stack,
    )


ledger = Ledger()
"""That of this process."""


def statistics() -> WatchdogStatistics:
    """Return what is known of the event loops of this process; cheap, on any thread.

    Never raises: before anything is watched, it is all zero.
    """
    return ledger.statistics()

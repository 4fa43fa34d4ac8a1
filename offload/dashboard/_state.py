"""What the page shows, as JSON: made of the pools' statistics, in sizes that stay bounded."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from offload._values.outcome import Outcome
from offload.dashboard._tasks import finite
from offload.dashboard._usage import Meter, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from offload._values.histogram import HistogramSnapshot
    from offload._values.statistics import FailureRecord, FunctionStatistics, PoolStatistics
    from offload.pool import Pool

__all__ = ["Sampler"]

# More than anybody reads; the rest is counted.
_MOST_FUNCTIONS = 100
_MOST_PLACES = 20
_MESSAGE_LENGTH = 300
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_COUNTS = (
    *("state", "max_workers", "starting", "idle", "busy", "leaving", "queued", "queued_bytes"),
    *("max_queued", "max_queued_bytes", "opened_at", *_OUTCOMES, "recycled"),
    *("starved_workers", "starved_seconds", "throttled_seconds"),
)
_NOBODY = Usage()
_counts = attrgetter(*_COUNTS)
_outcomes = attrgetter(*_OUTCOMES)


class Sampler:
    """Takes samples of pools; on one thread at a time.

    Args:
        pools: which pools there are now.
        actions: whether the page may offer to act.
        interval: seconds between two samples, told to the page.
        history: whether the page may ask for the last hours.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[Pool]],
        *,
        actions: bool,
        interval: float,
        history: bool = False,
    ) -> None:
        self._pools = pools
        self._about = {"actions": actions, "interval": interval, "history": history}
        self._meter = Meter()
        # By pool, function and kind. Most functions are not called between two samples.
        self._histograms: dict[tuple[str, str, str], tuple[HistogramSnapshot, dict[str, Any]]] = {}

    def take(self) -> bytes:
        """Return a sample as JSON, in UTF-8."""
        told = [pool.statistics() for pool in self._pools()]
        own = os.getpid()
        pids = [each.pid for pool in told for each in pool.workers if each.pid is not None]
        usage = self._meter.read([own, *pids])
        sample = {
            "at": time.time(),
            **self._about,
            "server": {"pid": own, **usage.get(own, _NOBODY)._asdict()},
            "loop": _loop(),
            "pools": [self._pool(each, usage) for each in told],
        }
        # No infinity and no NaN is expected; as JSON knows neither, an error is better than a page
        # that stands still without a word.
        return json.dumps(sample, allow_nan=False, separators=(",", ":")).encode()

    def functions(self, pool: Pool, text: str) -> bytes:
        """Return the functions of a pool whose name contains a text, as JSON."""
        wanted = text.casefold()
        found = [each for each in pool.statistics().functions if wanted in each.name.casefold()]
        told = [self._function(pool.name, each) for each in found[:_MOST_FUNCTIONS]]
        return json.dumps(told, allow_nan=False, separators=(",", ":")).encode()

    def _pool(self, now: PoolStatistics, usage: dict[int, Usage]) -> dict[str, Any]:
        functions = now.functions
        if len(functions) > _MOST_FUNCTIONS:
            # Those that are called most, still by name.
            often = sorted(functions, key=lambda each: -sum(_outcomes(each)))[:_MOST_FUNCTIONS]
            functions = tuple(sorted(often, key=lambda each: each.name))
        return {
            "name": now.name,
            **dict(zip(_COUNTS, _counts(now), strict=True)),
            "wait": self._histogram((now.name, "", "wait"), now.wait),
            "run": self._histogram((now.name, "", "run"), now.run),
            "workers": [
                {
                    "pid": each.pid,
                    "state": each.state,
                    "function": each.function,
                    "tasks_done": each.tasks_done,
                    "run_seconds": each.run_seconds,
                    "recycling": each.recycling,
                    "starved": each.starved,
                    "task": each.task_id,
                    "progress": finite(each.progress),
                    **usage.get(each.pid or 0, _NOBODY)._asdict(),
                }
                for each in now.workers
            ],
            # For the page, which has no list of its own.
            "outcomes": _OUTCOMES,
            "functions": [self._function(now.name, each) for each in functions],
            "functions_left_out": len(now.functions) - len(functions),
            "failures": [_failure(each) for each in now.failures],
        }

    def _function(self, pool: str, now: FunctionStatistics) -> dict[str, Any]:
        return {
            "name": now.name,
            "running": now.running,
            "queued": now.queued,
            "max_concurrency": now.max_concurrency,
            **dict(zip(_OUTCOMES, _outcomes(now), strict=True)),
            "wait": self._histogram((pool, now.name, "wait"), now.wait),
            "run": self._histogram((pool, now.name, "run"), now.run),
        }

    def _histogram(self, key: tuple[str, str, str], now: HistogramSnapshot) -> dict[str, Any]:
        last = self._histograms.get(key)
        if last is not None and (last[0].count, last[0].total) == (now.count, now.total):
            return last[1]
        shown = _shown(now)
        self._histograms[key] = now, shown
        return shown


def _shown(histogram: HistogramSnapshot) -> dict[str, Any]:
    # One bucket for each doubling, by its upper bound in powers of two microseconds: as fine as
    # a small picture can show.
    buckets: dict[int, int] = {}
    for bound, count in histogram.buckets:
        # The bounds are products of floats: one that is a power of two may lie a bit above it.
        power = max(math.ceil(math.log2(bound * 1e6) - 1e-6), 0)
        buckets[power] = buckets.get(power, 0) + count
    return {
        "count": histogram.count,
        "mean": round(histogram.mean, 7),
        "p50": round(histogram.quantile(0.5), 7),
        "p99": round(histogram.quantile(0.99), 7),
        "max": round(histogram.maximum, 7),
        "buckets": list(buckets.items()),
    }


def _failure(failure: FailureRecord) -> dict[str, Any]:
    # Traceback and full text are asked for one by one: sent with each sample they would be most
    # of it.
    return {
        "at": failure.at,
        "function": failure.function,
        "kind": failure.kind,
        "error": failure.error,
        "message": failure.message[:_MESSAGE_LENGTH],
        "pid": failure.pid,
    }


def _loop() -> dict[str, Any] | None:
    """Return what the watchdog knows of the event loop; None where none has been started."""
    if "offload.watchdog" not in sys.modules:
        return None
    from offload import watchdog

    now = watchdog.statistics()
    if not now.since:
        return None
    return {
        "is_watching": now.is_watching,
        "threshold": now.threshold,
        "since": now.since,
        "now": now.now,
        "lag": _shown(now.lag),
        "blocks": now.blocks,
        "places": [
            {
                "cause": each.cause,
                "what": each.what,
                "route": each.route,
                "function": each.function,
                "file": each.file,
                "line": each.line,
                "advice": each.advice,
                "count": each.count,
                "total": each.total,
                "longest": each.longest,
                "last_at": each.last_at,
            }
            for each in now.places[:_MOST_PLACES]
        ],
    }

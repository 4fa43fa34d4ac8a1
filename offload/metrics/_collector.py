"""Turns the statistics of pools into families of metrics, when a registry asks for them."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from offload._values.outcome import Outcome
from offload.metrics import _jobs as of_jobs
from offload.metrics import _schedules as of_schedules
from offload.metrics._client import (
    REGISTRY,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from offload.metrics._families import BOUNDS, Families, Kind, breathe
from offload.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offload._values.statistics import PoolStatistics
    from offload.metrics._client import CollectorRegistry, Metric
    from offload.watchdog import WatchdogStatistics

__all__ = ["BOUNDS", "PoolCollector", "register"]

_STATES = ("new", "open", "draining", "closed")
_WORKER_STATES = ("starting", "idle", "busy", "leaving")
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


_INFO = "Which offload this is."
# Read now, while modules are imported anyway: it takes some milliseconds.
try:
    _version = version("offload")
except PackageNotFoundError:  # a copy of the source that was never installed
    _version = "unknown"


_POOL = ("pool",)
_FUNCTION = ("pool", "function")
_FAMILIES = {
    "offload_pool_state": Kind(
        GaugeMetricFamily, "1 for the state that the pool is in.", ("pool", "state")
    ),
    "offload_pool_opened_timestamp_seconds": Kind(
        GaugeMetricFamily, "When the pool was opened last.", _POOL
    ),
    "offload_pool_max_workers": Kind(
        GaugeMetricFamily, "How many tasks of the pool may run at once.", _POOL
    ),
    "offload_pool_workers": Kind(
        GaugeMetricFamily, "Workers of the pool by state.", ("pool", "state")
    ),
    "offload_pool_workers_resident_bytes": Kind(
        GaugeMetricFamily, "Resident memory of all workers of the pool.", _POOL
    ),
    "offload_pool_workers_recycled": Kind(
        CounterMetricFamily, "Workers of the pool that were replaced by plan.", _POOL
    ),
    "offload_pool_starved_workers": Kind(
        GaugeMetricFamily, "Workers of the pool that get next to no CPU time.", _POOL
    ),
    "offload_pool_starved_seconds": Kind(
        CounterMetricFamily, "Seconds that such workers have waited for a CPU.", _POOL
    ),
    "offload_pool_throttled_seconds": Kind(
        CounterMetricFamily, "Seconds in which a CPU quota stopped workers that had work.", _POOL
    ),
    "offload_pool_queued_calls": Kind(
        GaugeMetricFamily, "Calls that wait for a worker of the pool.", _POOL
    ),
    "offload_pool_queued_bytes": Kind(
        GaugeMetricFamily, "Size of the pickled arguments of calls that wait.", _POOL
    ),
    "offload_pool_max_queued_calls": Kind(
        GaugeMetricFamily, "How many calls may wait before others are refused.", _POOL
    ),
    "offload_pool_max_queued_bytes": Kind(
        GaugeMetricFamily, "How large waiting calls may be before others are refused.", _POOL
    ),
    "offload_calls": Kind(
        CounterMetricFamily, "Calls that have ended, by outcome.", (*_FUNCTION, "outcome")
    ),
    "offload_running_calls": Kind(GaugeMetricFamily, "Calls that run now.", _FUNCTION),
    "offload_waiting_calls": Kind(GaugeMetricFamily, "Calls that wait now.", _FUNCTION),
    "offload_queue_wait_seconds": Kind(
        HistogramMetricFamily, "Seconds from the admission of a call to its start.", _FUNCTION
    ),
    "offload_run_seconds": Kind(
        HistogramMetricFamily, "Seconds from the start of a call to its reply.", _FUNCTION
    ),
}
_LOOP_FAMILIES = {
    "offload_event_loop_lag_seconds": Kind(
        HistogramMetricFamily, "Seconds by which heartbeats of the event loop were late."
    ),
    "offload_event_loop_late_seconds": Kind(
        GaugeMetricFamily, "Seconds by which the heartbeat of the event loop is late now."
    ),
    "offload_event_loop_blocks": Kind(
        CounterMetricFamily, "Times that the event loop was held too long.", ("cause",)
    ),
    "offload_event_loop_blocked_seconds": Kind(
        CounterMetricFamily, "Seconds that the event loop was held too long.", ("cause",)
    ),
    "offload_route_blocks": Kind(
        CounterMetricFamily, "Times that a route held the event loop.", ("route", "cause")
    ),
    "offload_route_blocked_seconds": Kind(
        CounterMetricFamily, "Seconds that a route held the event loop.", ("route", "cause")
    ),
}


class PoolCollector:
    """Collects from pools, the watchdog and jobs, where there are any; for a `CollectorRegistry`.

    Args:
        pools: which; none: all that the process has when it is asked.
    """

    def __init__(self, *pools: Pool) -> None:
        self._pools = pools

    def describe(self) -> Iterator[Metric]:
        """Yield the families without samples, by which a registry notices a clash of names."""
        yield InfoMetricFamily("offload", _INFO)
        yield from Families(_FAMILIES | _LOOP_FAMILIES)
        yield from of_jobs.describe()
        yield from of_schedules.describe()

    def collect(self) -> Iterator[Metric]:
        """Yield the families with their samples of this instant."""
        info = InfoMetricFamily("offload", _INFO)
        info.add_metric((), {"version": _version})
        yield info
        families = Families(_FAMILIES)
        for pool in self._pools or Pool.all():
            _add_pool(families, pool.statistics())
        yield from families
        # Not imported here: whoever watches a loop has done so.
        if "offload.watchdog" in sys.modules:
            from offload import watchdog

            seen = watchdog.statistics()
            if seen.since:
                yield from _of_loop(seen)
        # Likewise: where there are jobs, they have been imported.
        if "offload.jobs._jobs" in sys.modules:
            yield from of_jobs.collect()
        if "offload.schedules._scheduler" in sys.modules:
            yield from of_schedules.collect()


def _add_pool(to: Families, now: PoolStatistics) -> None:
    name = now.name
    for state in _STATES:
        to.value("offload_pool_state", float(now.state == state), name, state)
    if now.opened_at:
        to.value("offload_pool_opened_timestamp_seconds", now.opened_at, name)
    to.value("offload_pool_max_workers", now.max_workers, name)
    for state in _WORKER_STATES:
        to.value("offload_pool_workers", getattr(now, state), name, state)
    resident = sum(_resident_bytes(worker.pid) for worker in now.workers)
    to.value("offload_pool_workers_resident_bytes", resident, name)
    to.value("offload_pool_workers_recycled", now.recycled, name)
    to.value("offload_pool_starved_workers", now.starved_workers, name)
    to.value("offload_pool_starved_seconds", now.starved_seconds, name)
    to.value("offload_pool_throttled_seconds", now.throttled_seconds, name)
    to.value("offload_pool_queued_calls", now.queued, name)
    to.value("offload_pool_queued_bytes", now.queued_bytes, name)
    if now.max_queued is not None:
        to.value("offload_pool_max_queued_calls", now.max_queued, name)
    if now.max_queued_bytes is not None:
        to.value("offload_pool_max_queued_bytes", now.max_queued_bytes, name)
    for function in now.functions:
        breathe()
        labels = name, function.name
        for outcome in _OUTCOMES:
            to.value("offload_calls", getattr(function, outcome), *labels, outcome)
        to.value("offload_running_calls", function.running, *labels)
        to.value("offload_waiting_calls", function.queued, *labels)
        to.histogram("offload_queue_wait_seconds", function.wait, *labels)
        to.histogram("offload_run_seconds", function.run, *labels)


def _resident_bytes(pid: int | None) -> int:
    """Return the resident memory of a process in bytes, 0 where it cannot be told."""
    if pid is None:
        return 0
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE
    except (OSError, IndexError, ValueError):
        return 0


def _of_loop(seen: WatchdogStatistics) -> Iterator[Metric]:
    families = Families(_LOOP_FAMILIES)
    families.histogram("offload_event_loop_lag_seconds", seen.lag)
    families.value("offload_event_loop_late_seconds", seen.now)
    for each in seen.causes:
        families.value("offload_event_loop_blocks", each.count, each.cause)
        families.value("offload_event_loop_blocked_seconds", each.seconds, each.cause)
    for of_route in seen.routes:  # at most some hundred
        labels = of_route.route, of_route.cause
        families.value("offload_route_blocks", of_route.count, *labels)
        families.value("offload_route_blocked_seconds", of_route.seconds, *labels)
    yield from families


_registered: WeakKeyDictionary[CollectorRegistry, PoolCollector] = WeakKeyDictionary()


def register(registry: CollectorRegistry = REGISTRY) -> PoolCollector:
    """Have a registry collect from all pools of this process, present and future.

    Args:
        registry: which; that of the process by default. Registering twice does nothing more.

    Returns:
        The collector, which `registry.unregister` takes out again.
    """
    collector = _registered.get(registry)
    if collector is None or not _is_in(registry, collector):
        collector = PoolCollector()
        registry.register(collector)
        _registered[registry] = collector
    return collector


def _is_in(registry: CollectorRegistry, collector: PoolCollector) -> bool:
    held: Iterable[object] = registry._collector_to_names  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - there is no public way to ask
    return collector in held

"""What schedulers of this process tell: how late fires were, and what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offload.metrics._client import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from offload.metrics._families import Families, Kind, breathe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offload.metrics._client import Metric

__all__ = ["collect", "describe"]

_FAMILIES = {
    "offload_schedules": Kind(GaugeMetricFamily, "Schedules of the schedulers that run here."),
    "offload_schedule_lateness_seconds": Kind(
        HistogramMetricFamily,
        "Seconds from when a fire was due to its start, or until its job was stored.",
        ("schedule",),
    ),
    "offload_schedule_events": Kind(
        CounterMetricFamily,
        "Events of schedules: started, finished, failed, missed, fired elsewhere and so on.",
        ("schedule", "event"),
    ),
}


def describe() -> Iterator[Metric]:
    """Yield the families without samples."""
    yield from Families(_FAMILIES)


def collect() -> Iterator[Metric]:
    """Yield the families with their samples of this instant; of schedules that have fired."""
    from offload.schedules import Scheduler

    families, total = Families(_FAMILIES), 0
    for scheduler in Scheduler.all():
        if not scheduler.is_running:
            continue
        total += len(scheduler)
        for name, runs in scheduler.levers.seen_runs():
            breathe()
            families.histogram("offload_schedule_lateness_seconds", runs.late.snapshot(), name)
            for event, count in list(runs.counts.items()):
                families.value("offload_schedule_events", count, name, event.value)
    families.value("offload_schedules", total)
    yield from families

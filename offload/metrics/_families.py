"""Families of metrics while they are filled: what every collector of ours does alike."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from offload._child.context import asyncio_loop
from offload.metrics._client import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Sample,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from offload._values.histogram import HistogramSnapshot
    from offload.metrics._client import Metric

__all__ = ["BOUNDS", "LONG_BOUNDS", "Families", "Kind", "breathe", "cumulative"]

# In seconds: 2**7 to 2**27 microseconds. Powers of two, because those are among the bounds of our
# own histograms: every count is exact, where other bounds would have to be interpolated.
BOUNDS = tuple(round(2**power / 1e6, 6) for power in range(7, 28))
# Of what jobs take: 1 ms to 4.8 hours.
LONG_BOUNDS = tuple(round(2**power / 1e6, 6) for power in range(10, 35))
# Some 0.1 ms of work.
_SAMPLES_AT_ONCE = 20
_PAUSE_SECONDS = 50e-6
# A bound of our own histogram is that of a bucket but for the last bits of a float.
_TOLERANCE = 1 + 1e-9


class Kind(NamedTuple):
    """One family, before it has samples."""

    family: type[GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = BOUNDS


def breathe() -> None:
    """Let the event loop have the GIL, if this is another thread.

    A thread that turns thousands of samples into text takes the GIL for 5 ms, the interpreter's
    switch interval, again and again. One that sleeps gives it up; for a moment longer than nothing,
    because else it would have it back before the loop's thread has woken up.
    """
    if asyncio_loop() is None:
        time.sleep(_PAUSE_SECONDS)


class _Samples(list[Sample]):
    """Samples of a family, with pauses while they are written out."""

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__(), start=1):
            if not number % _SAMPLES_AT_ONCE:
                breathe()
            yield sample


class Families:
    """Families that are being filled, in the order in which they are declared."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self._kinds = kinds
        self._made = {
            name: kind.family(name, kind.help, labels=kind.labels) for name, kind in kinds.items()
        }
        for family in self._made.values():
            family.samples = _Samples()

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._made.values())

    def value(self, name: str, value: float, *labels: str) -> None:
        """Add a sample of a gauge or counter."""
        family = self._made[name]
        assert not isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, value)

    def histogram(self, name: str, seen: HistogramSnapshot, *labels: str) -> None:
        """Add the samples of a histogram."""
        family = self._made[name]
        assert isinstance(family, HistogramMetricFamily)
        family.add_metric(labels, cumulative(seen, self._kinds[name].bounds), seen.total)


def cumulative(
    seen: HistogramSnapshot, bounds: tuple[float, ...] = BOUNDS
) -> list[tuple[str, float]]:
    """Return how many values are at most each bound, as Prometheus wants them."""
    buckets: list[tuple[str, float]] = []
    ours = iter(seen.buckets)
    bound, count = next(ours, (float("inf"), 0))
    total = 0
    for edge in bounds:
        while bound <= edge * _TOLERANCE:
            total += count
            bound, count = next(ours, (float("inf"), 0))
        buckets.append((repr(edge), float(total)))
    buckets.append(("+Inf", float(seen.count)))
    return buckets

"""Percentiles, and how far they can be trusted."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BLOCK_MS",
    "FRACTIONS",
    "Comparison",
    "Estimate",
    "Stall",
    "blocks",
    "compare",
    "in_ms",
    "quantile",
    "stalls",
    "summary",
]

FRACTIONS = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
# Requests of one second share what happened in it, a stall or a neighbour's burst: they are drawn
# together, or the intervals would be far too narrow.
BLOCK_MS = 1000.0
_RESAMPLES = 1000
_LOWER, _UPPER = 0.025, 0.975


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Percentiles of two samples, by name, and the ratio of the second to the first."""

    before: dict[str, Estimate]
    after: dict[str, Estimate]
    ratio: dict[str, Estimate]


class Stall(NamedTuple):
    """A stretch of time in which every request was slow.

    Attributes:
        at_ms: when the first of them was due.
        longest_ms: what that one waited, or a later one that waited longer.
    """

    at_ms: float
    longest_ms: float


def in_ms(seconds: float) -> float:
    """Return milliseconds, as the output has them."""
    # A microsecond is less than any of this is good for; more digits are only more bytes.
    return round(seconds * 1e3, 3)


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return the value of sorted ones that this fraction does not exceed; nan of none.

    The nearest rank: it is one of the values, and a maximum stays one.
    """
    if not ordered:
        return math.nan
    return ordered[min(max(math.ceil(len(ordered) * fraction) - 1, 0), len(ordered) - 1)]


def summary(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p99 and maximum in milliseconds."""
    ordered = sorted(seconds)
    return {
        name: in_ms(quantile(ordered, FRACTIONS[name])) if ordered else None
        for name in ("p50", "p99", "max")
    }


def blocks(
    times: Iterable[tuple[float, float]], *, block_ms: float = BLOCK_MS
) -> list[list[float]]:
    """Return the latencies of (intended, latency) in milliseconds, by second, each sorted."""
    found: dict[int, list[float]] = {}
    for intended, latency in times:
        found.setdefault(int(intended // block_ms), []).append(latency)
    return [sorted(block) for block in found.values()]


def compare(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, seed: int = 1
) -> Comparison:
    """Compare two samples, given in blocks, with intervals by a bootstrap over the blocks.

    Args:
        before: blocks of values, as `blocks` makes them; at least one.
        after: the same of what is compared with them.
        seed: of the draws, so that a report can be made again.

    Source:
        Künsch, The Jackknife and the Bootstrap for General Stationary Observations, 1989.
    """
    numbers = random.Random(seed)  # noqa: S311 - a resampling
    drawn: dict[str, list[tuple[float, float]]] = {name: [] for name in FRACTIONS}
    for _ in range(_RESAMPLES):
        first = _percentiles(numbers.choices(before, k=len(before)))
        second = _percentiles(numbers.choices(after, k=len(after)))
        for name, pairs in drawn.items():
            pairs.append((first[name], second[name]))
    first, second = _percentiles(before), _percentiles(after)
    return Comparison(
        {name: _estimate(first[name], [pair[0] for pair in drawn[name]]) for name in FRACTIONS},
        {name: _estimate(second[name], [pair[1] for pair in drawn[name]]) for name in FRACTIONS},
        {
            name: _estimate(second[name] / first[name], [pair[1] / pair[0] for pair in drawn[name]])
            for name in FRACTIONS
        },
    )


def _percentiles(sample: Iterable[Sequence[float]]) -> dict[str, float]:
    # Blocks are sorted already, which sorting notices: it only merges them.
    ordered = sorted(value for block in sample for value in block)
    return {name: quantile(ordered, fraction) for name, fraction in FRACTIONS.items()}


def _estimate(value: float, draws: list[float]) -> Estimate:
    draws.sort()
    return Estimate(value, quantile(draws, _LOWER), quantile(draws, _UPPER))


def stalls(times: Iterable[tuple[float, float]], *, threshold_ms: float) -> list[Stall]:
    """Return the stretches in which requests waited at least so long, one after the other.

    Args:
        times: (intended, latency) in milliseconds, by intended time.
        threshold_ms: what makes a request slow.
    """
    found: list[Stall] = []
    # When the latest slow request was answered: one that was due before that waits for the same.
    until = -math.inf
    for intended, latency in times:
        if latency < threshold_ms:
            continue
        if intended <= until and found:
            found[-1] = Stall(found[-1].at_ms, max(found[-1].longest_ms, latency))
        else:
            found.append(Stall(intended, latency))
        until = max(until, intended + latency)
    return found

"""Numbers as the reports tell them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.suite.scenario import Metric, Scenario
    from benchmarks.suite.statistics import Estimate, Interval


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if math.isnan(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(2 - math.floor(math.log10(abs(value))), 0)
    return f"{value:.{min(digits, 3)}f}"


def times(interval: Interval) -> str:
    """Return a ratio with its interval."""
    if math.isinf(interval.value):
        return "which is none"
    if math.isnan(interval.low):
        return f"× {interval.value:.2f}, one repetition, no interval"
    return f"× {interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def told(scenario: Scenario, metric: Metric, estimate: Estimate) -> str:
    """Return an estimate for a table: value and 95 % interval."""
    fraction = 0.5 if metric.fraction is None else metric.fraction
    found = estimate.interval(fraction)
    value, low, high = (each * metric.factor for each in found)
    limit = scenario.timeout_ms if metric.key.endswith("_ms") else metric.given_up_at
    if limit is not None and found.value >= limit:
        # Whoever had waited so long left: the true value is unknown, and above this.
        return f"≥ {number(limit * metric.factor)}"
    if math.isnan(low) or low == high:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"

"""What the scenarios promise, and whether it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.suite import catalogue, plots
from benchmarks.suite.contenders import CONTENDERS
from benchmarks.suite.figures import number
from benchmarks.suite.statistics import Interval, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.suite.results import Results
    from benchmarks.suite.scenario import Claim, Metric, Parameters, Scenario
    from benchmarks.suite.statistics import Estimate

_HOLDS, _REFUTED, _UNDECIDED, _OPEN = "holds", "**REFUTED**", "undecided", "not measured"
# What was measured once varies by nobody knows how much.
_HELD_ONCE, _MISSED_ONCE = "held the only time", "**MISSED** the only time"


def claims(scenario: Scenario, results: Results) -> str:
    """Return what was promised, and whether it holds."""
    lines: list[str] = []
    for claim in scenario.claims:
        found = _claimed(scenario, results, claim)
        if found is None:
            lines.append(f"- {_OPEN}: {claim.text}")
        else:
            told = number(found.value)
            if not math.isnan(found.low) and found.low != found.high:
                told += f" [{number(found.low)}, {number(found.high)}]"
            lines.append(
                f"- {verdict(claim, found)}: {claim.text} "
                f"({claim.relation} {claim.limit:.3g}): {told}"
            )
    return "\n".join(lines)


def verdict(claim: Claim, found: Interval) -> str:
    """Return whether a claim holds; neither way if its interval has values of both kinds."""
    value, low, high = found
    if claim.relation == "at least":  # the same, mirrored
        value, low, high = -value, -high, -low
    limit = claim.limit if claim.relation == "at most" else -claim.limit
    if math.isnan(low):
        return _HELD_ONCE if value <= limit else _MISSED_ONCE
    if high <= limit:
        return _HOLDS
    return _REFUTED if low > limit else _UNDECIDED


def _claimed(scenario: Scenario, results: Results, claim: Claim) -> Interval | None:
    """Return the number that a claim is about, in the reader's unit; None: it was not measured."""
    metric = plots.metric_of(scenario, claim.value)
    fraction = 0.5 if metric.fraction is None else metric.fraction
    ours = _best_estimate(scenario, results, metric, claim.parameters, claim.contender)
    if claim.reference is None:
        if ours is None:
            return None
        value, low, high = ours.interval(fraction)
        return Interval(value * metric.factor, low * metric.factor, high * metric.factor)
    parameters = claim.reference_parameters
    theirs = _best_estimate(
        scenario,
        results,
        metric,
        claim.parameters if parameters is None else parameters,
        claim.reference,
    )
    if ours is None or theirs is None or not theirs.value(fraction):
        return None
    return ratio(theirs, ours, fraction)


def _best_estimate(
    scenario: Scenario, results: Results, metric: Metric, parameters: Parameters, contender: str
) -> Estimate | None:
    """Return the estimate of a contender's cell, the best if there are several."""
    wanted = [contender]
    if contender == "best":
        wanted = [each for each in results.contenders if not CONTENDERS[each].is_ours]
    fraction = 0.5 if metric.fraction is None else metric.fraction
    found: Estimate | None = None
    for cell in results.cells():
        if cell[0] in wanted and set(parameters.items()) <= set(cell[1]):
            estimate = results.estimate(cell, metric, scenario.metrics)
            if estimate is None:
                continue
            is_more = found is None or estimate.value(fraction) > found.value(fraction)
            if found is None or is_more == (metric.better == "more"):
                found = estimate
    return found


def count(found: Sequence[Results]) -> str:
    """Return how many promises of all scenarios hold, as a phrase."""
    scenarios = [(catalogue.scenario(results.scenario), results) for results in found]
    text = "\n".join(claims(*each) for each in scenarios if each[0].claims)
    counts = [
        (words, f"\n{text}".count(f"\n- {verdict}:"))
        for verdict, words in (
            (_HOLDS, "hold"),
            (_REFUTED, "refuted"),
            (_UNDECIDED, "undecided"),
            (_HELD_ONCE, "held the only time that they were measured"),
            (_MISSED_ONCE, "missed the only time that they were measured"),
            (_OPEN, "not measured"),
        )
    ]
    return "; ".join(f"{words}: {number}" for words, number in counts if number)

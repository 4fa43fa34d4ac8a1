"""Where somebody is better than `offload`: found in the results, by the interval of the ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.suite import catalogue
from benchmarks.suite.contenders import CONTENDERS, OURS
from benchmarks.suite.figures import number, times
from benchmarks.suite.results import describe
from benchmarks.suite.statistics import ratio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Metric, Scenario
    from benchmarks.suite.statistics import Interval

# A difference that is smaller is not worth a sentence, however sure it is.
WORTH_TELLING = 1.02
# Without an interval, a difference has to be larger to be told.
_WORTH_TELLING_ONCE = 1.10


@dataclass(frozen=True, slots=True)
class Loss:
    """A contender that is better than ours in one metric of one cell; `times` as good."""

    scenario: str
    metric: Metric
    parameters: tuple[tuple[str, int | float | str], ...]
    rival: str
    ours: float
    theirs: float
    times: Interval

    def text(self) -> str:
        """Return it for readers."""
        where = describe(self.parameters)
        at = f"at {where}: " if where else ""
        theirs, ours = (number(each * self.metric.factor) for each in (self.theirs, self.ours))
        return f"{at}{theirs} with {self.rival}, {ours} with offload ({times(self.times)})"


def losses(scenario: Scenario, results: Results) -> list[Loss]:
    """Return who is better than ours, in the headline metrics of a scenario, the worst first."""
    found: list[Loss] = []
    for cell in results.cells():
        if cell[0] == OURS:
            for metric in scenario.metrics:
                if metric.is_headline and metric.better is not None:
                    found += _losses_in(scenario, results, cell, metric)
    found.sort(key=lambda loss: -abs(math.log(max(loss.times.value, 1e-9))))
    return found


def _losses_in(scenario: Scenario, results: Results, cell: Cell, metric: Metric) -> list[Loss]:
    ours = results.estimate(cell, metric, scenario.metrics)
    found: list[Loss] = []
    if ours is None:
        return found
    fraction = 0.5 if metric.fraction is None else metric.fraction
    for name in results.contenders:
        rival = name, cell[1]
        if CONTENDERS[name].is_ours or rival not in results.cells():
            continue
        theirs = results.estimate(rival, metric, scenario.metrics)
        if theirs is None:
            continue
        # How many times as good as ours: above 1 we lose, whichever way the metric goes.
        if metric.better == "more":
            compared = ratio(ours, theirs, fraction)
        else:
            compared = ratio(theirs, ours, fraction)
        sure = compared.low > 1 if not math.isnan(compared.low) else None
        enough = WORTH_TELLING if sure else _WORTH_TELLING_ONCE
        if sure is False or not compared.value > enough:
            continue
        found.append(
            Loss(
                scenario.name,
                metric,
                cell[1],
                results.label(name),
                ours.value(fraction),
                theirs.value(fraction),
                compared,
            )
        )
    return found


def losses_text(found: Iterable[Results]) -> str:
    """Return where somebody is better than ours: a line for each metric, with the worst case."""
    lines: list[str] = []
    for results in found:
        scenario = catalogue.scenario(results.scenario)
        by_metric: dict[str, list[Loss]] = {}
        for loss in losses(scenario, results):
            by_metric.setdefault(loss.metric.label, []).append(loss)
        for label, all_of_it in by_metric.items():
            rivals = list(dict.fromkeys(loss.rival for loss in all_of_it))
            line = f"- **{scenario.name}, {label}**: {all_of_it[0].text()}."
            if len(all_of_it) > 1:
                line = line.replace("**: ", "**, at worst ", 1)
                line += f" Better in at least one case: {'; '.join(rivals)}."
            lines.append(line)
    return "\n".join(lines) or "Nowhere in these results."

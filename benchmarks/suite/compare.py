"""Compares two runs of a scenario: what is worse, what is better, and what only looks so.

A metric of a cell has changed when the whole interval of the ratio lies beyond what matters
(`at_least`). Intervals are of 99 %, because a headline run alone has hundreds of them to look at.
They cover what varied between the repetitions of a run. What differed between two runs (another
machine, another day) they do not, and the text names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmarks.suite import catalogue
from benchmarks.suite.results import ResultsError, describe
from benchmarks.suite.statistics import ratio

if TYPE_CHECKING:
    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Metric
    from benchmarks.suite.statistics import Estimate, Interval

_CONFIDENCE = 0.99
# With fewer there is no interval.
_FEWEST_REPETITIONS = 2

Verdict = Literal["worse", "better", "unclear", "same", "no interval"]


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one cell, in both runs."""

    cell: Cell
    metric: Metric
    before: float
    after: float
    ratio: Interval
    verdict: Verdict

    def text(self) -> str:
        """Return it as a line."""
        factor = self.metric.factor
        told = (
            f"{self.cell[0]}, {describe(self.cell[1])}: {self.metric.label} "
            f"{self.before * factor:.4g} → {self.after * factor:.4g}"
        )
        if math.isnan(self.ratio.low):
            return f"{told}, × {self.ratio.value:.2f}"
        return f"{told}, × {self.ratio.value:.2f} [{self.ratio.low:.2f}, {self.ratio.high:.2f}]"


@dataclass(slots=True)
class Comparison:
    """All changes between two runs.

    Attributes:
        scenario: its name.
        changes: one for each metric of each cell that both runs have.
        notes: what makes the runs hard to compare; cells that only one of them has.
    """

    scenario: str
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        """What became worse."""
        return [change for change in self.changes if change.verdict == "worse"]

    def text(self, *, everything: bool = False) -> str:
        """Return the comparison for readers, the worst first."""
        lines = [f"{self.scenario}: {len(self.changes)} comparisons, {_CONFIDENCE:.0%} intervals"]
        lines += [f"NOTE: {note}" for note in self.notes]
        headings: dict[Verdict, str] = {
            "worse": "worse",
            "better": "better",
            "no interval": "no interval: fewer than two repetitions, so nothing can be said",
            "unclear": "unclear: may have changed, more repetitions would tell",
            "same": "no change that matters",
        }
        for verdict, heading in headings.items():
            found = [change for change in self.changes if change.verdict == verdict]
            lines.append(f"{heading}: {len(found)}")
            if verdict in {"worse", "better"} or everything:
                found.sort(key=lambda change: -abs(math.log(max(change.ratio.value, 1e-9))))
                lines += [f"  {change.text()}" for change in found]
        return "\n".join(lines)


def compare(before: Results, after: Results, at_least: float = 1.1) -> Comparison:
    """Compare two runs of the same scenario.

    Args:
        before: raw results.
        after: raw results.
        at_least: ratios between 1/this and this do not matter.

    Raises:
        ResultsError: they are of different scenarios.
    """
    if before.scenario != after.scenario:
        raise ResultsError(
            f"{before.path} is of {before.scenario} and {after.path} of {after.scenario}: "
            "give two runs of the same scenario"
        )
    found = Comparison(before.scenario, notes=_notes(before, after))
    metrics = catalogue.scenario(before.scenario).metrics
    cells = [cell for cell in before.cells() if cell in set(after.cells())]
    for cell in cells:
        for metric in metrics:
            first = before.estimate(cell, metric, metrics)
            second = after.estimate(cell, metric, metrics)
            if metric.better is not None and first is not None and second is not None:
                found.changes.append(_change(cell, metric, first, second, at_least))
    return found


def _change(
    cell: Cell, metric: Metric, first: Estimate, second: Estimate, at_least: float
) -> Change:
    fraction = 0.5 if metric.fraction is None else metric.fraction
    before, after = first.value(fraction), second.value(fraction)
    found = ratio(first, second, fraction, confidence=_CONFIDENCE)
    fewest = min(len(first.repetitions), len(second.repetitions))
    verdict: Verdict
    if before == after:
        verdict = "same"
    elif fewest < _FEWEST_REPETITIONS or math.isnan(found.low):
        verdict = "no interval"
    elif found.low > at_least:
        verdict = "worse" if metric.better == "less" else "better"
    elif found.high < 1 / at_least:
        verdict = "better" if metric.better == "less" else "worse"
    elif found.low > 1 / at_least and found.high < at_least:
        verdict = "same"
    else:
        verdict = "unclear"
    return Change(cell, metric, before, after, found, verdict)


def _notes(before: Results, after: Results) -> list[str]:
    notes: list[str] = []
    for name in ("cpu", "cpus", "kernel", "python"):
        first, second = before.document["machine"][name], after.document["machine"][name]
        if first != second:
            notes.append(f"{name} differs: {first} → {second}")
    first, second = before.document["settings"], after.document["settings"]
    notes += [
        f"{name} differs: {first[name]} → {second.get(name)}"
        for name in ("workers", "is_quick")
        if first[name] != second.get(name)
    ]
    versions = [
        {each["name"]: each["versions"] for each in run.document["contenders"]}
        for run in (before, after)
    ]
    notes += [
        f"versions of {name} differ: {versions[0][name]} → {versions[1][name]}"
        for name in versions[0]
        if name in versions[1] and versions[0][name] != versions[1][name]
    ]
    one_sided = set(before.cells()) ^ set(after.cells())
    if one_sided:
        names = sorted({cell[0] for cell in one_sided})
        notes.append(f"{len(one_sided)} cells are in one run only, of {', '.join(names)}")
    disturbed = [
        sum(bool(row["disturbed"]) for row in run.document["rows"]) for run in (before, after)
    ]
    if any(disturbed):
        notes.append(f"measurements that others disturbed: {disturbed[0]} → {disturbed[1]}")
    return notes

"""Tables of results: a row for each contender, the best of each column in bold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.suite.figures import told

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Metric, Scenario


def table(
    scenario: Scenario, results: Results, cells: Sequence[Cell], metrics: Iterable[Metric]
) -> str:
    """Return a table: a row for each cell, a column for each metric that any of them has."""
    columns = [
        metric
        for metric in metrics
        if any(results.estimate(cell, metric, scenario.metrics) for cell in cells)
    ]
    best = {metric.name: _best(scenario, results, cells, metric) for metric in columns}
    order = {name: index for index, name in enumerate(results.contenders)}
    lines = [
        "| " + " | ".join(["", *(metric.label for metric in columns)]) + " |",
        "|" + "---|" * (len(columns) + 1),
    ]
    for cell in sorted(cells, key=lambda cell: order[cell[0]]):
        entries = [results.label(cell[0])]
        for metric in columns:
            estimate = results.estimate(cell, metric, scenario.metrics)
            text = "–" if estimate is None else told(scenario, metric, estimate)
            entries.append(f"**{text}**" if cell in best[metric.name] else text)
        lines.append("| " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _best(
    scenario: Scenario, results: Results, cells: Sequence[Cell], metric: Metric
) -> list[Cell]:
    """Return the best cells of a column; none if all are equal, or nobody wins by it."""
    fraction = 0.5 if metric.fraction is None else metric.fraction
    values: dict[Cell, float] = {}
    for cell in cells:
        estimate = results.estimate(cell, metric, scenario.metrics)
        if estimate is not None:
            values[cell] = estimate.value(fraction)
    if metric.better is None or len(set(values.values())) < 2:
        return []
    best = (max if metric.better == "more" else min)(values.values())
    return [cell for cell, value in values.items() if value == best]

"""The figures of the page on the ways to run work, between two marker comments of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.suite import catalogue, plots
from benchmarks.suite.claims import claims
from benchmarks.suite.figures import number, told
from benchmarks.suite.results import ResultsError
from benchmarks.suite.statistics import ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Parameters, Scenario

BEGIN = "<!-- ways: rendered by `python -m benchmarks report --ways docs/ways-to-run.md` -->"
END = "<!-- ways: end -->"
NAMES = ("ways_to_run", "scheduled_work")
# As the page calls them.
_WAYS = {
    "inline": "inline",
    "run_in_threadpool": "in a thread",
    "offload-forkserver": "on the pool",
    "offload-jobs": "as jobs",
    "node-cron": "node-cron, background task",
}
_IDLE, _FIRES = {"load": "idle"}, {"load": "a fire each second"}
_ONE, _TWO = ({"load": "8 clients", "workers": number} for number in (1, 2))
_CRASH, _KILL = {"load": "a run crashes"}, {"load": "its program is killed"}


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: a metric in the cells of these parameters, or how many times that of others."""

    label: str
    metric: str
    cell: Parameters
    times: Parameters = field(default_factory=dict)


_SPEED = (
    _Column("`/fast` p50 idle, ms", "fast_ms p50", _IDLE),
    _Column("beside fires", "fast_ms p50", _FIRES),
    _Column("p99 idle, ms", "fast_ms p99", _IDLE),
    _Column("beside fires", "fast_ms p99", _FIRES),
    _Column("× idle", "fast_ms p99", _FIRES, _IDLE),
    _Column("beside eight clients", "fast_ms p99", _TWO),
)
_WORK = (
    _Column("runs/s, one worker", "work_per_second", _ONE),
    _Column("two workers", "work_per_second", _TWO),
    _Column("× one", "work_per_second", _TWO, _ONE),
    _Column("round trip p50 of eight clients, ms", "work_round_trip_ms", _TWO),
    _Column("a fire begins late by, ms", "start_ms p50", _FIRES),
)
_WEIGHT = (
    _Column("web: processes", "web_processes", _FIRES),
    _Column("threads", "web_threads", _FIRES),
    _Column("MiB", "web_pss_bytes", _FIRES),
    _Column("CPU, %", "web_cpu_share", _FIRES),
    _Column("worker program: processes", "worker_processes", _FIRES),
    _Column("threads", "worker_threads", _FIRES),
    _Column("MiB", "worker_pss_bytes", _FIRES),
    _Column("CPU, %", "worker_cpu_share", _FIRES),
)
_HARM = (
    _Column("a run crashes: `/fast` silent for, s", "unanswered_seconds", _CRASH),
    _Column("other runs lost", "runs_lost", _CRASH),
    _Column("its program is killed: `/fast` silent for, s", "unanswered_seconds", _KILL),
    _Column("run lost", "runs_lost", _KILL),
)
_BESIDE = (
    _Column("`/fast` p99 idle, ms", "fast_ms p99", _IDLE),
    _Column("beside fires", "fast_ms p99", _FIRES),
    _Column("× idle", "fast_ms p99", _FIRES, _IDLE),
    _Column("p50, × idle", "fast_ms p50", _FIRES, _IDLE),
)


def text(found: Mapping[str, Results]) -> str:
    """Return the figures for the page.

    Args:
        found: results by scenario.

    Raises:
        ResultsError: those of one of the scenarios are missing.
    """
    for name in NAMES:
        if name not in found:
            raise ResultsError(f"there are no raw results of {name} for the page of the ways")
    ways, scheduled = (found[name] for name in NAMES)
    return "\n\n".join(
        (
            "### Speed, and `/fast` meanwhile",
            _table(ways, _SPEED),
            _table(ways, _WORK),
            "### What each program weighs beside a fire each second",
            _table(ways, _WEIGHT),
            "### What a crash takes down",
            _table(ways, _HARM),
            f"{_about(ways)} [All of it](../benchmarks/pages/ways_to_run.md).",
            "### Beside node-cron",
            _table(scheduled, _BESIDE),
            claims(catalogue.scenario(scheduled.scenario), scheduled),
            f"{_about(scheduled)} [All of it](../benchmarks/pages/scheduled_work.md).",
        )
    )


def _about(results: Results) -> str:
    machine = results.document["machine"]
    rows = results.document["rows"]
    disturbed = sum(1 for row in rows if row["disturbed"])
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, Python {machine['python']}, "
        f"{results.document['started'][:10]}; repetitions: {results.document['repetitions']}; "
        f"other processes disturbed {disturbed} of {len(rows)} measurements."
    )


def _table(results: Results, columns: Sequence[_Column]) -> str:
    scenario = catalogue.scenario(results.scenario)
    lines = [
        "| | " + " | ".join(column.label for column in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in results.contenders:
        entries = [_entry(scenario, results, name, column) for column in columns]
        lines.append(f"| {_WAYS.get(name, name)} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def _entry(scenario: Scenario, results: Results, name: str, column: _Column) -> str:
    metric = plots.metric_of(scenario, column.metric)
    cell = _cell(results, name, column.cell)
    estimate = None if cell is None else results.estimate(cell, metric, scenario.metrics)
    if estimate is None:
        return "–"
    if not column.times:
        return told(scenario, metric, estimate)
    base_cell = _cell(results, name, column.times)
    base = None if base_cell is None else results.estimate(base_cell, metric, scenario.metrics)
    if base is None:
        return "–"
    fraction = 0.5 if metric.fraction is None else metric.fraction
    value, low, high = ratio(base, estimate, fraction)
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(low):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _cell(results: Results, name: str, parameters: Parameters) -> Cell | None:
    for cell in results.cells():
        if cell[0] == name and set(parameters.items()) <= set(cell[1]):
            return cell
    return None

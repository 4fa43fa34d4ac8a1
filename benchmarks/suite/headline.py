"""The few figures that README of the project shows, between two marker comments."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from benchmarks.suite import catalogue, plots
from benchmarks.suite.contenders import OURS
from benchmarks.suite.figures import number
from benchmarks.suite.losses import losses
from benchmarks.suite.results import ResultsError
from benchmarks.suite.tables import table

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.suite.losses import Loss
    from benchmarks.suite.results import Results

BEGIN = "<!-- benchmarks: rendered by `python -m benchmarks report --readme README.md` -->"
END = "<!-- benchmarks: end -->"
SCENARIO = "fast_under_heavy"
CELL = (("heavy_clients", 8),)
_COLUMNS = ("fast_ms p99", "heavy_per_second", "pss_bytes")
# What a server is likely to have today: nothing, threads, and the pool that is at hand.
_ROWS = ("inline", "run_in_threadpool", "executor-fork", OURS)


def text(results: Results, folder: str) -> str:
    """Return the figures for a README.

    Args:
        results: of the scenario `SCENARIO`.
        folder: where the pages of the report are, seen from that README.
    """
    scenario = catalogue.scenario(results.scenario)
    cells = [cell for cell in results.cells() if cell[1] == CELL and cell[0] in _ROWS]
    columns = [plots.metric_of(scenario, name) for name in _COLUMNS]
    machine = results.document["machine"]
    worst: dict[str, Loss] = {}
    for loss in losses(scenario, results):
        if loss.parameters == CELL:
            worst.setdefault(loss.metric.label, loss)
    costs = "; ".join(
        f"{label}: {number(loss.ours * loss.metric.factor)} against "
        f"{number(loss.theirs * loss.metric.factor)} with {loss.rival}"
        for label, loss in worst.items()
    )
    costs = f"Where it loses here: {costs}." if costs else "Nobody was better in one of these."
    return f"""{table(scenario, results, cells, columns)}

Eight clients keep two workers busy with 200 ms computations, `/fast` is asked 200 times a second.
{machine["cpu"]}, {machine["cpus"]} CPUs, Python {machine["python"]},
{results.document["repetitions"]} repetitions, 95 % intervals. {costs}
[All contenders, scenarios and losses]({folder}/README.md)."""


def insert(path: Path, told: str, begin: str = BEGIN, end: str = END) -> None:
    """Put text between two marker comments of a file.

    Raises:
        ResultsError: it has not both of them.
    """
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(before):
        raise ResultsError(
            f"{path} needs these two lines, where the figures are to be:\n{begin}\n{end}"
        )
    block = f"{begin}\n\n{told}\n\n{end}"
    path.write_text(pattern.sub(lambda _: block, before, count=1), encoding="utf-8")

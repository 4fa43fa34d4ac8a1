"""Raw results: one JSON file for each scenario of a run, with everything that was measured.

format          1
scenario        its name
started         UTC, ISO 8601
seconds         that it took
is_complete     false if it was stopped before its end
machine, commit, is_changed, loops_per_ms, settings, seconds_each, repetitions
contenders      [{"name", "label", "family", "versions"}, …] that took part
absent          [{"name", "label", "reason"}, …] that could not, or have no part in it
failures        [{"contender", "repetition", "parameters", "error"}, …] of measurements
rows            [{"contender", "repetition", "parameters", "values", "samples", "times",
                  "health", "disturbed", "attempts"}, …], one for each measurement
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.suite.statistics import Estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from benchmarks.suite.scenario import Metric

FORMAT = 1

Cell = tuple[str, tuple[tuple[str, "int | float | str"], ...]]


class ResultsError(ValueError):
    """A file holds no raw results that this version can read."""


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write raw results: a line for each measurement, so that a diff can be read."""
    head = {key: value for key, value in document.items() if key != "rows"}
    lines = json.dumps({**head, "rows": []}, indent=1)
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in document["rows"])
    text = lines.rstrip().removesuffix("[]\n}") + "[\n" + rows + "\n]\n}\n"
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def read(path: Path) -> Results:
    """Read raw results.

    Raises:
        ResultsError: there are none in the file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultsError(f"{path} holds no raw results of format {FORMAT}")
    return Results(path, document)


@dataclass(slots=True)
class Results:
    """One file of raw results, with estimates on demand."""

    path: Path
    document: dict[str, Any]
    _estimates: dict[tuple[Cell, str], Estimate | None] | None = None

    @property
    def scenario(self) -> str:
        """The name of the scenario."""
        name: str = self.document["scenario"]
        return name

    @property
    def contenders(self) -> list[str]:
        """The names of those that took part, in the order of the registry."""
        return [each["name"] for each in self.document["contenders"]]

    def label(self, contender: str) -> str:
        """Return how readers know a contender."""
        for each in self.document["contenders"]:
            if each["name"] == contender:
                label: str = each["label"]
                return label
        return contender

    def cells(self) -> list[Cell]:
        """Return all cells that were measured, in the order of the first repetition."""
        return list(dict.fromkeys(cell_of(row) for row in self.document["rows"]))

    def rows(self, cell: Cell) -> list[dict[str, Any]]:
        """Return the repetitions of a cell."""
        return [row for row in self.document["rows"] if cell_of(row) == cell]

    def estimate(self, cell: Cell, metric: Metric, among: Iterable[Metric]) -> Estimate | None:
        """Return the estimate of a metric in a cell; None if it was not measured there.

        Args:
            cell: which.
            metric: what is asked.
            among: all metrics; those of the same samples are estimated at once.
        """
        if self._estimates is None:
            self._estimates = {}
        key = cell, metric.key
        if key not in self._estimates:
            self._estimates[key] = self._estimate(cell, metric, among)
        return self._estimates[key]

    def _estimate(self, cell: Cell, metric: Metric, among: Iterable[Metric]) -> Estimate | None:
        rows = self.rows(cell)
        if metric.fraction is None:
            values = [row["values"].get(metric.key) for row in rows]
            repetitions = [[value] for value in values if value is not None]
            fractions: list[float] = [0.5]
        else:
            repetitions = [row["samples"].get(metric.key, []) for row in rows]
            fractions = [
                each.fraction
                for each in among
                if each.key == metric.key and each.fraction is not None
            ]
        if not any(repetitions):
            return None
        return Estimate(repetitions, fractions)


def cell_of(row: Mapping[str, Any]) -> Cell:
    """Return which cell a row is of."""
    return row["contender"], tuple(row["parameters"].items())


def describe(parameters: Iterable[tuple[str, int | float | str]]) -> str:
    """Return the parameters of a cell for readers."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}"
        if isinstance(value, int)
        else f"{name.replace('_', ' ')} {value}"
        for name, value in parameters
    )

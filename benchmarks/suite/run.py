"""Runs: contenders in turn, repetition after repetition, into files of raw results."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.suite import machine, results
from benchmarks.suite.contenders import chosen, default_names
from benchmarks.suite.scenario import Context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.suite.contenders import Contender
    from benchmarks.suite.scenario import Measured, Parameters, Scenario, Settings


class Progress(Protocol):
    """Tells somebody how far it is."""

    def advance(self, what: str, measured: Measured | None) -> None:
        """One cell is done; `what` it was, and None if it failed."""
        ...


class Lines:
    """Progress as lines, for a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begin = time.monotonic()

    def advance(self, what: str, measured: Measured | None) -> None:
        """Print a line."""
        self._done += 1
        elapsed = time.monotonic() - self._begin
        left = elapsed / self._done * (self._total - self._done)
        note = "FAILED" if measured is None else "; ".join(measured.disturbed)
        print(f"[{self._done}/{self._total}, {left:.0f} s left] {what} {note}", file=sys.stderr)


class Bar:
    """Progress as a bar with the time left, for a terminal."""

    def __init__(self, bar: Any, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total)

    def advance(self, what: str, measured: Measured | None) -> None:
        """Move the bar; what went wrong stays above it."""
        if measured is None:
            self._bar.console.print(f"{what}: FAILED")
        elif measured.disturbed:
            self._bar.console.print(f"{what}: disturbed, {'; '.join(measured.disturbed)}")
        self._bar.update(self._task, advance=1, description=what)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Show progress: a bar on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines(total)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    # Seldom drawn: the bar must not take the CPU that is measured. Cells differ much in length:
    # the speed is that of the last half hour.
    with RichProgress(
        *columns, console=Console(stderr=True), refresh_per_second=1, speed_estimate_period=1800
    ) as bar:
        yield Bar(bar, total)


def run(
    scenarios: Sequence[Scenario],
    names: Sequence[str],
    settings: Settings,
    folder: Path,
) -> list[Path]:
    """Run scenarios, and write a file of raw results for each.

    Args:
        scenarios: which, in this order.
        names: who takes part; none: all by default. Those that are missing on this machine are
            reported as absent.
        settings: how.
        folder: where the files go; it is made if need be.

    Returns:
        the files.

    Raises:
        UnknownNameError: there is no contender of a name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + settings.minutes * 60 if settings.minutes is not None else None
    plans = [
        _Plan(scenario, chosen(names or scenario.only or default_names(scenario.also)), settings)
        for scenario in scenarios
    ]
    with_node = any(contender.language == "node" for plan in plans for contender, _ in plan.cells)
    loops = machine.loops_per_ms(with_node=with_node)
    with progress(sum(plan.total for plan in plans)) as shown:
        return [_Run(plan, settings, loops, deadline).run(folder, shown) for plan in plans]


class _Plan:
    """Which cells of which contenders one scenario has."""

    def __init__(
        self,
        scenario: Scenario,
        contenders: Sequence[Contender],
        settings: Settings,
    ) -> None:
        self.scenario = scenario
        self.cells: list[tuple[Contender, Sequence[Parameters]]] = []
        self.absent: list[dict[str, str]] = []
        for contender in contenders:
            reason = contender.missing() or no_part(scenario, contender)
            if reason is None:
                self.cells.append((contender, scenario.cells(contender, settings)))
            else:
                self.absent.append(
                    {"name": contender.name, "label": contender.label, "reason": reason}
                )
        usual = 1 if settings.is_quick else scenario.repetitions
        self.repetitions = settings.repetitions or usual
        short = scenario.quick_seconds if settings.is_quick else scenario.seconds
        self.seconds = settings.seconds or short
        self.total = self.repetitions * sum(len(cells) for _, cells in self.cells)


def no_part(scenario: Scenario, contender: Contender) -> str | None:
    """Return why a contender has no part in a scenario; None if it has."""
    if contender.family == "queue" and contender.name not in scenario.only:
        return "it is a queue of jobs: no calls"
    if contender.only_in and scenario.name not in contender.only_in:
        return f"it is only in {', '.join(contender.only_in)}"
    if scenario.only and contender.name not in scenario.only:
        return f"{scenario.name} compares {', '.join(scenario.only)}"
    return scenario.skips(contender)


class _Run:
    """One scenario of a run."""

    def __init__(
        self, plan: _Plan, settings: Settings, loops: dict[str, float], deadline: float | None
    ) -> None:
        self._plan = plan
        self._context = Context(
            settings=settings,
            seconds=plan.seconds,
            loops_per_ms=loops,
            may_repeat=lambda: deadline is None or time.monotonic() < deadline,
            module=plan.scenario.module,
        )
        self._rows: list[dict[str, Any]] = []
        self._failures: list[dict[str, Any]] = []

    def run(self, folder: Path, shown: Progress) -> Path:
        """Measure all cells as often as planned; write what there is, whatever happens."""
        plan = self._plan
        started = dt.datetime.now(dt.UTC).replace(microsecond=0)
        begin = time.monotonic()
        head = self._head(started)
        path = folder / f"{plan.scenario.name}-{started:%Y%m%dT%H%M%SZ}.json"
        is_complete = False
        try:
            for repetition in range(plan.repetitions):
                # Each is first once: who comes first in a round may have the coolest machine.
                turn = repetition % max(len(plan.cells), 1)
                for contender, cells in plan.cells[turn:] + plan.cells[:turn]:
                    self._measure(contender, cells, repetition, shown)
            is_complete = True
        finally:
            results.write(
                path,
                {
                    **head,
                    "seconds": round(time.monotonic() - begin, 1),
                    "is_complete": is_complete,
                    "failures": self._failures,
                    "rows": self._rows,
                },
            )
        return path

    def _head(self, started: dt.datetime) -> dict[str, Any]:
        plan, context = self._plan, self._context
        return {
            "format": results.FORMAT,
            "scenario": plan.scenario.name,
            "started": started.isoformat(),
            "machine": machine.machine(),
            **machine.commit(),
            "loops_per_ms": {name: round(each, 1) for name, each in context.loops_per_ms.items()},
            "settings": asdict(context.settings),
            "seconds_each": plan.seconds,
            "repetitions": plan.repetitions,
            "contenders": [
                {
                    "name": contender.name,
                    "label": contender.label,
                    "family": contender.family,
                    "versions": contender.versions(),
                }
                for contender, _ in plan.cells
            ],
            "absent": plan.absent,
        }

    def _measure(
        self,
        contender: Contender,
        cells: Sequence[Parameters],
        repetition: int,
        shown: Progress,
    ) -> None:
        """Measure all cells of a contender once; a failure costs those that were still to come."""
        scenario = self._plan.scenario
        done = 0
        try:
            for measured in scenario.measure(contender, cells, self._context):
                row = {"contender": contender.name, "repetition": repetition, **measured.to_json()}
                self._rows.append(row)
                told = results.describe(measured.parameters.items())
                shown.advance(f"{scenario.name}: {contender.name}, {told}", measured)
                done += 1
        except (OSError, RuntimeError, ValueError) as error:
            for parameters in cells[done:]:
                self._failures.append(
                    {
                        "contender": contender.name,
                        "repetition": repetition,
                        "parameters": dict(parameters),
                        "error": f"{type(error).__name__}: {error}",
                    }
                )
                shown.advance(f"{scenario.name}: {contender.name}: {error}", None)

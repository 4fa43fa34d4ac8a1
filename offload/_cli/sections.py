"""The tables of `offload top`: which rows and columns they have, made of a dashboard's state.

A new table is a function that returns a `Section`, and a line in `sections_of`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from offload._cli.fitting import Column
from offload._cli.formats import cpu_text, memory_text, printable, seconds_text, size_text
from offload._values.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offload._cli.top_view import View

__all__ = ["Frame", "Section", "sections_of"]

_STATES = {"busy": "bold yellow", "idle": "green", "starting": "cyan", "leaving": "dim"}
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_TITLES = {"completed": "DONE", "timed_out": "TIMED OUT", "not_started": "NOT STARTED"}
_BAD = {"failed": "red", "refused": "yellow", "timed_out": "magenta", "crashed": "bold red"}
_BAR = 10
_MOST_FAILURES = 8
# So wide are the figures of a busy server: "1.23 ms", "1,234", "1,234,567".
_TIME, _RATE, _COUNT = 7, 7, 9
# Of the rarer columns all of one kind go together: the first is dropped last.
_RATE_RANK, _OUTCOME_RANK, _WAIT_RANK, _DONE_RANK, _P50_RANK = 3, 4, 6, 7, 8

_Pools = list[dict[str, Any]]


@dataclass(frozen=True)
class Frame:
    """What one frame is made of: the newest state, the one before, and what is to be shown."""

    state: Mapping[str, Any]
    before: Mapping[str, Any]
    view: View

    @property
    def rate_columns(self) -> list[Column]:
        """The column of the rate, where there is a frame before to compare with."""
        if not self.before:
            return []
        return [Column("CALLS/S", _RATE_RANK, _RATE, is_number=True)]

    def rate(self, pool: str, function: str | None, now: Mapping[str, Any]) -> list[Text]:
        """Return the calls per second since the frame before, where there is one."""
        if not self.before:
            return []
        before: Any = _named(pool, self.before["pools"])
        if function is not None:
            before = _named(function, before.get("functions", ()))
        calls = sum(now[outcome] - before.get(outcome, 0) for outcome in _OUTCOMES)
        seconds = self.state["at"] - self.before["at"]
        # Below zero where the pool was opened anew, and its counters began again.
        return [Text(f"{calls / seconds:,.0f}" if seconds > 0 and calls >= 0 else "")]


@dataclass
class Section:
    """One table.

    Args:
        columns: all that it could have; some may be dropped.
        rows: all that there are; some may be cut off.
        is_scrolled: the keys that scroll are for it.
        first: rows that are scrolled past.
        left_out: rows that the server did not tell.
        weight: rows that it gets in each turn, where not all tables fit.
        noted: index of the column whose heading says which rows are shown.
    """

    columns: list[Column]
    rows: list[list[Text]] = field(default_factory=list[list[Text]])
    is_scrolled: bool = False
    first: int = 0
    left_out: int = 0
    weight: int = 1
    noted: int = 0

    def visible(self, most: int | None) -> tuple[list[list[Text]], str]:
        """Return the rows that are shown, and a note which they are where that is not all."""
        count = len(self.rows)
        if most is None:
            most = count
        first = min(self.first, max(count - most, 0))
        shown = self.rows[first : first + most]
        total = count + self.left_out
        return shown, f"{first + 1}-{first + len(shown)} of {total:,}" if len(shown) < total else ""


def sections_of(frame: Frame) -> list[Section]:
    """Return the tables of a frame, from the top."""
    pools = frame.view.pools_of(frame.state)
    sections = [
        _pools(frame, pools),
        _workers(frame, pools),
        _functions(frame, pools),
        _failures(frame, pools),
    ]
    return [each for each in sections if each.rows or each is not sections[-1]]


def _pools(frame: Frame, pools: _Pools) -> Section:
    outcomes = _seen(pools)
    columns = [
        Column("POOL", keeps_end=True),
        Column("STATE", 2),
        Column("BUSY", 1),
        Column("QUEUED", 2, is_number=True),
        *frame.rate_columns,
        *_outcome_columns(outcomes),
        *_time_columns(),
    ]
    rows = [
        [
            Text(printable(pool["name"]), "bold"),
            Text(pool["state"], "green" if pool["state"] == "open" else "yellow"),
            _bar(pool["busy"], pool["max_workers"]),
            _queue(pool),
            *frame.rate(pool["name"], None, pool),
            *_counts(pool, outcomes),
            *_times(pool),
        ]
        for pool in pools
    ]
    return Section(columns, rows, weight=2)


def _workers(frame: Frame, pools: _Pools) -> Section:
    columns = [
        Column("WORKER", least=6, is_number=True),
        Column("POOL", 5, keeps_end=True),
        Column("STATE", 1, 8),
        Column("CPU", 3, 4, is_number=True),
        Column("MEMORY", 4, _TIME, is_number=True),
        Column("TASKS", 6, _RATE, is_number=True),
        Column("FOR", 2, _TIME, is_number=True),
        Column("RUNS", keeps_end=True),
    ]
    section = Section(columns, weight=2, noted=len(columns) - 1)
    for pool in pools:
        for worker in pool["workers"]:
            if not frame.view.has_name(worker["function"]):
                continue
            state = str(worker["state"])
            # Not of servers that run an older version.
            starved = bool(worker.get("starved"))
            more = " (no CPU)" if starved else " (recycling)" if worker["recycling"] else ""
            run = worker["run_seconds"]
            section.rows.append(
                [
                    Text(str(worker["pid"] or "?")),
                    Text(printable(pool["name"])),
                    Text(state + more, "bold red" if starved else _STATES.get(state, "")),
                    Text(cpu_text(worker)),
                    Text(memory_text(worker)),
                    Text(f"{worker['tasks_done']:,}"),
                    Text("" if run is None else seconds_text(run)),
                    Text(printable(worker["function"] or "")),
                ]
            )
    return section


def _functions(frame: Frame, pools: _Pools) -> Section:
    found = frame.view.functions_of(pools)
    outcomes = _seen(function for _, function in found)
    columns = [
        Column("FUNCTION", keeps_end=True),
        *([Column("POOL", 5, keeps_end=True)] if len(pools) > 1 else []),
        Column("NOW", 2, is_number=True),
        Column("QUEUED", 2, is_number=True),
        *frame.rate_columns,
        *_outcome_columns(outcomes),
        *_time_columns(),
    ]
    rows = [
        [
            Text(printable(function["name"])),
            *([Text(printable(pool["name"]))] if len(pools) > 1 else []),
            Text(str(function["running"] or "")),
            Text(f"{function['queued']:,}" if function["queued"] else ""),
            *frame.rate(pool["name"], function["name"], function),
            *_counts(function, outcomes),
            *_times(function),
        ]
        for pool, function in found
    ]
    left_out = 0 if frame.view.needle else sum(pool["functions_left_out"] for pool in pools)
    return Section(
        columns, rows, is_scrolled=True, first=frame.view.first, left_out=left_out, weight=4
    )


def _failures(frame: Frame, pools: _Pools) -> Section:
    columns = [
        Column("FAILED AT", 3, 8),
        Column("FUNCTION", keeps_end=True),
        Column("HOW", 2),
        Column("ERROR", wanted=24),
    ]
    failures = [
        failure
        for pool in pools
        for failure in pool["failures"]
        if frame.view.has_name(failure["function"])
    ]
    failures.sort(key=lambda failure: -failure["at"])
    rows = [
        [
            Text(time.strftime("%H:%M:%S", time.localtime(failure["at"]))),
            Text(printable(failure["function"])),
            Text(failure["kind"], _BAD.get(failure["kind"], "")),
            Text(printable(f"{failure['error']}: {failure['message']}")),
        ]
        for failure in failures[:_MOST_FAILURES]
    ]
    return Section(columns, rows, noted=3)


# --- columns and cells of several tables ---


def _named(name: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return next((item for item in items if item["name"] == name), {})


def _seen(each: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the outcomes that there were; a column for what never happens is in the way."""
    rows = list(each)
    return [name for name in _OUTCOMES if name == "completed" or any(row[name] for row in rows)]


def _outcome_columns(outcomes: Sequence[str]) -> list[Column]:
    return [
        Column(
            _TITLES.get(outcome, outcome.upper()),
            _DONE_RANK if outcome == "completed" else _OUTCOME_RANK,
            _COUNT if outcome == "completed" else 0,
            is_number=True,
        )
        for outcome in outcomes
    ]


def _counts(now: Mapping[str, Any], outcomes: Iterable[str]) -> list[Text]:
    return [
        Text(f"{now[outcome]:,}" if now[outcome] else "", _BAD.get(outcome, ""))
        for outcome in outcomes
    ]


def _time_columns() -> list[Column]:
    return [
        Column("RUN p50", _P50_RANK, _TIME, is_number=True),
        Column("RUN p99", 1, _TIME, is_number=True),
        Column("WAIT p99", _WAIT_RANK, _TIME, is_number=True),
    ]


def _times(now: Mapping[str, Any]) -> list[Text]:
    run, wait = now["run"], now["wait"]
    if not run["count"]:
        return [Text()] * 3
    return [Text(seconds_text(each)) for each in (run["p50"], run["p99"], wait["p99"])]


def _bar(busy: int, most: int) -> Text:
    filled = round(_BAR * busy / most) if most else 0
    bar = Text("█" * filled, "yellow")
    bar.append("░" * (_BAR - filled), "dim")
    bar.append(f" {busy}/{most}")
    return bar


def _queue(pool: Mapping[str, Any]) -> Text:
    queued, most = pool["queued"], pool["max_queued"]
    style = "bold red" if most is not None and queued >= most > 0 else "yellow" if queued else ""
    size = f" ({size_text(pool['queued_bytes'])})" if pool["queued_bytes"] else ""
    return Text(f"{queued:,}{size}" + ("" if most is None else f" of {most:,}"), style)

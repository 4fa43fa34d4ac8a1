"""What `offload top` shows, drawn with rich."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from offload._values.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

__all__ = ["Screen", "printable"]

_STATES = {"busy": "bold yellow", "idle": "green", "starting": "cyan", "leaving": "dim"}
_OUTCOMES = tuple(outcome.value for outcome in Outcome)
_TITLES = {"completed": "DONE", "timed_out": "TIMED OUT", "not_started": "NOT STARTED"}
_TIMES = (">RUN p50", ">p99", ">WAIT p99")
_BAD = {"failed": "red", "refused": "yellow", "timed_out": "magenta", "crashed": "bold red"}
_LONG_LAG_SECONDS = 0.05
_BAR = 10
_KIB = 1024
# Lines that are there anyway: the head, headings, and what lies between.
_FIXED_LINES = 12
_MOST_FAILURES = 8


def printable(value: object, limit: int = 200) -> str:
    """Return a text that only shows: what comes from a server must not steer this terminal."""
    text = str(value)[:limit]
    # Escape sequences, line ends, and characters that turn the direction of what follows.
    return "".join(each if each.isprintable() else "�" if each == "\x1b" else " " for each in text)


class Screen:
    """Frames of a server's pools.

    Args:
        url: of the dashboard, shown at the top.
        console: where to draw; None: standard output.
    """

    def __init__(self, url: str, console: Console | None = None) -> None:
        self._url = url
        self._console = console or Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._state: dict[str, Any] = {}
        self._before: dict[str, Any] = {}

    def live(self) -> Live:
        """Return the context in which frames replace each other."""
        return self._live

    def print(self, state: dict[str, Any]) -> None:
        """Print one frame, whole."""
        self._state = state
        self._console.print(self._frame(None))

    def show(self, state: dict[str, Any]) -> None:
        """Replace the frame."""
        self._before, self._state = self._state, state
        self._live.update(self._frame(self._console.height), refresh=True)

    def lost(self, reason: str) -> None:
        """Show the last frame again, and that it is the last."""
        frame = Group(Text(printable(reason, 300), "bold red"), self._frame(self._console.height))
        self._live.update(frame, refresh=True)

    # --- the frame ---

    def _frame(self, height: int | None) -> RenderableType:
        state = self._state
        pools: list[dict[str, Any]] = state["pools"]
        parts: list[RenderableType] = [self._head(state), self._pools(pools)]
        room = None if height is None else max(height - _FIXED_LINES - len(pools), 6)
        failures = self._failures(pools, None if room is None else min(room // 3, _MOST_FAILURES))
        workers = [(pool, worker) for pool in pools for worker in pool["workers"]]
        functions = [(pool, function) for pool in pools for function in pool["functions"]]
        left = None if room is None else room - failures.row_count
        most = None if left is None else max(left - min(len(functions), left // 2), 2)
        parts.append(self._workers(workers, most))
        if left is not None:
            left = max(left - min(len(workers), most or 0), 2)
        parts.append(self._functions(functions, left))
        if failures.row_count:
            parts.append(failures)
        if not pools:
            parts.append(Text("no pool has been made yet", "dim"))
        return Group(*(line for part in parts for line in (part, "")))

    def _head(self, state: Mapping[str, Any]) -> Text:
        server = state["server"]
        head = Text.assemble(("offload top", "bold"), f"  {printable(self._url)}  ")
        head.append(f"pid {server['pid']}  {_cpu(server)} CPU  {_memory(server)}  ")
        head.append(time.strftime("%H:%M:%S", time.localtime(state["at"])), "dim")
        loop = state.get("loop")
        if loop is not None:
            lag = loop["lag"]["p99"]
            style = "bold red" if max(lag, loop["now"]) > _LONG_LAG_SECONDS else "green"
            head.append("\nevent loop: ")
            head.append(f"lag p99 {_seconds(lag)}, late by {_seconds(loop['now'])} now", style)
            head.append(f", {loop['blocks']} blocks")
            for place in loop["places"][:1]:
                where = f"{place['function']} at {place['file']}:{place['line']}"
                route = f"{place['route']}: " if place["route"] else ""
                head.append(f"; most of it {printable(route + where)}", "yellow")
        return head

    def _pools(self, pools: list[dict[str, Any]]) -> Table:
        outcomes = _seen(pools)
        table = _table(
            "POOL", "STATE", "BUSY", ">QUEUED", *self._rated(), *_titles(outcomes), *_TIMES
        )
        for pool in pools:
            name = Text(printable(pool["name"]), "bold")
            state = Text(pool["state"], "green" if pool["state"] == "open" else "yellow")
            table.add_row(
                name,
                state,
                _bar(pool["busy"], pool["max_workers"]),
                _queue(pool),
                *self._rate(pool["name"], None, pool),
                *_counts(pool, outcomes),
                *_times(pool),
            )
        return table

    def _workers(
        self, workers: list[tuple[dict[str, Any], dict[str, Any]]], most: int | None
    ) -> Table:
        table = _table("WORKER", "POOL", "STATE", ">CPU", ">MEMORY", ">TASKS", ">FOR", "RUNS")
        for pool, worker in workers[:most]:
            state = str(worker["state"])
            recycling = " (recycling)" if worker["recycling"] else ""
            table.add_row(
                str(worker["pid"] or "?"),
                printable(pool["name"]),
                Text(state + recycling, _STATES.get(state, "")),
                _cpu(worker),
                _memory(worker),
                f"{worker['tasks_done']:,}",
                "" if worker["run_seconds"] is None else _seconds(worker["run_seconds"]),
                Text(printable(worker["function"] or "")),
            )
        _more(table, len(workers), most)
        return table

    def _functions(
        self, functions: list[tuple[dict[str, Any], dict[str, Any]]], most: int | None
    ) -> Table:
        outcomes = _seen(function for _, function in functions)
        table = _table("FUNCTION", ">NOW", ">QUEUED", *self._rated(), *_titles(outcomes), *_TIMES)
        # Those first that keep the workers busy.
        functions = sorted(
            functions,
            key=lambda each: (
                -each[1]["running"],
                -each[1]["run"]["mean"] * each[1]["run"]["count"],
            ),
        )
        for pool, function in functions[:most]:
            table.add_row(
                Text(printable(function["name"])),
                str(function["running"] or ""),
                str(function["queued"] or ""),
                *self._rate(pool["name"], function["name"], function),
                *_counts(function, outcomes),
                *_times(function),
            )
        _more(table, len(functions), most)
        return table

    def _failures(self, pools: Iterable[Mapping[str, Any]], most: int | None) -> Table:
        table = _table("FAILED AT", "FUNCTION", "HOW", "ERROR")
        failures = [failure for pool in pools for failure in pool["failures"]]
        failures.sort(key=lambda failure: -failure["at"])
        for failure in failures[: _MOST_FAILURES if most is None else most]:
            error = f"{failure['error']}: {failure['message']}"
            table.add_row(
                time.strftime("%H:%M:%S", time.localtime(failure["at"])),
                Text(printable(failure["function"])),
                Text(failure["kind"], _BAD.get(failure["kind"], "")),
                Text(printable(error), overflow="ellipsis"),
            )
        return table

    def _rated(self) -> list[str]:
        """Return the heading of the rate, where there is a frame before to compare with."""
        return [">CALLS/S"] if self._before else []

    def _rate(self, pool: str, function: str | None, now: Mapping[str, Any]) -> list[str]:
        """Return the calls per second since the frame before, where there is one."""
        if not self._before:
            return []
        before: Any = _named(pool, self._before["pools"])
        if function is not None:
            before = _named(function, before.get("functions", ()))
        calls = sum(now[outcome] - before.get(outcome, 0) for outcome in _OUTCOMES)
        seconds = self._state["at"] - self._before["at"]
        # Below zero where the pool was opened anew, and its counters began again.
        return [f"{calls / seconds:,.0f}" if seconds > 0 and calls >= 0 else ""]


def _named(name: str, items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return next((item for item in items if item["name"] == name), {})


def _table(*columns: str) -> Table:
    """Return an empty table; ">" marks columns of numbers."""
    wide = [name for name in columns if name in ("RUNS", "FUNCTION", "ERROR")]
    table = Table(
        box=None, pad_edge=False, padding=(0, 1), header_style="bold dim", expand=bool(wide)
    )
    for name in columns:
        is_number = name.startswith(">")
        table.add_column(
            name.removeprefix(">"),
            justify="right" if is_number else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if name in wide else None,
        )
    return table


def _titles(outcomes: Iterable[str]) -> list[str]:
    return [">" + _TITLES.get(outcome, outcome.upper()) for outcome in outcomes]


def _seen(each: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the outcomes that there were; a column for what never happens is in the way."""
    rows = list(each)
    return [name for name in _OUTCOMES if name == "completed" or any(row[name] for row in rows)]


def _counts(now: Mapping[str, Any], outcomes: Iterable[str]) -> list[Text]:
    return [
        Text(f"{now[outcome]:,}" if now[outcome] else "", _BAD.get(outcome, ""))
        for outcome in outcomes
    ]


def _more(table: Table, count: int, most: int | None) -> None:
    if most is not None and count > most:
        table.add_row(Text(f"… {count - most} more", "dim"))


def _bar(busy: int, most: int) -> Text:
    filled = round(_BAR * busy / most) if most else 0
    bar = Text("█" * filled, "yellow")
    bar.append("░" * (_BAR - filled), "dim")
    bar.append(f" {busy}/{most}")
    return bar


def _queue(pool: Mapping[str, Any]) -> Text:
    queued, most = pool["queued"], pool["max_queued"]
    style = "bold red" if most is not None and queued >= most > 0 else "yellow" if queued else ""
    size = f" ({_bytes(pool['queued_bytes'])})" if pool["queued_bytes"] else ""
    return Text(f"{queued:,}{size}" + ("" if most is None else f" of {most:,}"), style)


def _times(now: Mapping[str, Any]) -> list[str]:
    run, wait = now["run"], now["wait"]
    seen = (run["p50"], run["p99"], wait["p99"]) if run["count"] else ()
    return [_seconds(each) for each in seen]


def _cpu(usage: Mapping[str, Any]) -> str:
    return "" if usage["cpu"] is None else f"{usage['cpu']:.0%}"


def _memory(usage: Mapping[str, Any]) -> str:
    size = usage["pss_bytes"] or usage["rss_bytes"]
    return "" if size is None else _bytes(size)


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < _KIB:
            return f"{size:.0f} {unit}"
        size /= _KIB
    return f"{size:.1f} GiB"


def _seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.0f} µs" if seconds else "0"

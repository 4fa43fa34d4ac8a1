"""The frames of `offload top`, drawn with rich: each as wide and as high as the terminal."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from offload._cli.fitting import GAP, fit, share
from offload._cli.formats import cpu_text, memory_text, printable, seconds_text
from offload._cli.job_sections import job_sections
from offload._cli.sections import Frame, sections_of
from offload._cli.top_view import KEYS, Mode, View

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offload._cli.fitting import Column
    from offload._cli.sections import Section

__all__ = ["Screen"]

_LONG_LAG_SECONDS = 0.05
_HEADING = "bold underline"


class Screen:
    """Frames of a server's pools and jobs.

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
        self._trouble = ""
        # The furthest that functions can be scrolled: the last of them is at the bottom then.
        self._last_first = 0

    def live(self) -> Live:
        """Return the context in which frames replace each other."""
        return self._live

    def print(self, state: dict[str, Any]) -> None:
        """Print one frame, whole."""
        self.take(state)
        self._console.print(self.frame(View(), height=None))

    def take(self, state: dict[str, Any]) -> None:
        """Take a new state; the next frame shows it."""
        self._before, self._state = self._state, state
        self._trouble = ""

    def lost(self, reason: str) -> None:
        """Have the next frames say why they show the last state that there was."""
        self._trouble = reason

    def show(self, view: View) -> View:
        """Replace the frame; return the view, scrolled no further than there are functions."""
        self._live.update(self.frame(view, self._console.height), refresh=True)
        return replace(view, first=min(view.first, self._last_first))

    @property
    def state(self) -> Mapping[str, Any]:
        """The last state that there was."""
        return self._state

    def frame(self, view: View, height: int | None) -> Group:
        """Return a frame.

        Args:
            view: what to show of the state.
            height: lines that there are; None: as many as it takes, and no keys, since nobody
                presses any.
        """
        lines = self._head()
        if self._trouble:
            lines.insert(0, _line(printable(self._trouble, 300), "bold red"))
        if view.mode is Mode.HELP:
            return Group(*lines, _help())
        footer = [] if height is None else [_footer(view)]
        frame = Frame(self._state, self._before, view)
        sections = sections_of(frame) if self._state["pools"] else []
        sections += job_sections(frame)
        if not sections:
            return Group(*lines, Text(), Text("no pool has been made yet", "dim"), *footer)
        wants = [len(each.rows) for each in sections]
        given: list[int | None] = [None] * len(sections)
        blank = [Text()]
        if height is not None:
            room = height - len(lines) - len(footer) - len(sections)
            # Empty lines between tables only where nothing has to make room for them.
            blank = [] if sum(wants) > room - len(sections) else blank
            given = [*share(room - len(blank) * len(sections), wants, [s.weight for s in sections])]
        for section, most in zip(sections, given, strict=True):
            if section.is_scrolled:
                self._last_first = max(len(section.rows) - (most or 0), 0)
            lines += [*blank, *_drawn(section, most, self._console.width)]
        return Group(*lines, *footer)

    def _head(self) -> list[Text]:
        server = self._state["server"]
        facts = [f"pid {server['pid']}", memory_text(server)]
        facts.insert(1, f"{cpu_text(server)} CPU" if cpu_text(server) else "")
        head = _line("")
        head.append("offload top", "bold")
        head.append(f"  {'  '.join(filter(None, facts))}  ")
        head.append(time.strftime("%H:%M:%S", time.localtime(self._state["at"])), "dim")
        head.append(f"  {printable(self._url)}")
        loop = self._state.get("loop")
        starved = _starved(self._state["pools"])
        return [head, *([] if loop is None else [_loop(loop)]), *starved]


def _loop(loop: Mapping[str, Any]) -> Text:
    lag = loop["lag"]["p99"]
    style = "bold red" if max(lag, loop["now"]) > _LONG_LAG_SECONDS else "green"
    told = _line("event loop: ")
    told.append(f"lag p99 {seconds_text(lag)}, late by {seconds_text(loop['now'])} now", style)
    told.append(f", {loop['blocks']} blocks")
    for place in loop["places"][:1]:
        where = f"{place['function']} at {place['file']}:{place['line']}"
        route = f"{place['route']}: " if place["route"] else ""
        told.append(f"; most of it {printable(route + where)}", "yellow")
    return told


def _starved(pools: Sequence[Mapping[str, Any]]) -> list[Text]:
    """Return a line if workers get no CPU time: nothing else tells why calls take for ever."""
    # A server that runs an older version does not say.
    pools = [each for each in pools if each.get("starved_workers")]
    if not pools:
        return []
    count = sum(each["starved_workers"] for each in pools)
    names = ", ".join(printable(each["name"]) for each in pools)
    who = "1 worker gets" if count == 1 else f"{count} workers get"
    told = _line(f"{who} next to no CPU time", "bold red")
    told.append(f" ({names}): busy neighbours go first; see os_priority", "red")
    return [told]


def _footer(view: View) -> Text:
    if view.mode is Mode.TYPING:
        return _line(f"filter: {view.needle}▏ Enter keeps it, Escape drops it", "reverse")
    told = _line("", "dim")
    told.append("?", "bold")
    told.append(" help  ")
    told.append("q", "bold")
    told.append(" quit  ")
    told.append("s", "bold")
    told.append(f"ort: {view.sort}  ")
    told.append("p", "bold")
    told.append(f"ool: {'all' if view.pool is None else printable(view.pool)}  ")
    told.append("/", "bold")
    told.append(f" {view.needle or 'filter'}")
    return told


def _help() -> Table:
    table = Table(box=None, padding=(0, 2), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    table.add_row("", "")
    for key, meaning in KEYS:
        table.add_row(key, meaning)
    table.add_row("", "")
    table.add_row(
        "", "Any key goes back. What does not fit is left out, figures first.", style="dim"
    )
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _drawn(section: Section, most: int | None, width: int) -> list[Text]:
    rows, note = section.visible(most)
    heading = [Text(each.title, _HEADING) for each in section.columns]
    if note:
        heading[section.noted].append(f" {note}")
    widths = [
        max(cells.cell_len for cells in column) for column in zip(heading, *rows, strict=True)
    ]
    fitted = fit(section.columns, widths, width)
    return [_row(each, section.columns, fitted) for each in (heading, *rows)]


def _row(cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int | None]) -> Text:
    # Not a table of rich, which narrows columns that it thinks too wide.
    line = _line("")
    for cell, column, width in zip(cells, columns, widths, strict=True):
        if width is None:
            continue
        shown = _cut(cell, column, width)
        shown.truncate(width, overflow="ellipsis")
        spaces = " " * (width - shown.cell_len)
        if column.is_number:
            line.append(spaces)
        line.append_text(shown)
        line.append(" " * GAP if column.is_number else spaces + " " * GAP)
    line.rstrip()
    return line


def _cut(cell: Text, column: Column, width: int) -> Text:
    """Return a cell whose end stays, where its column says so and it has to be cut."""
    if not column.keeps_end or cell.cell_len <= width:
        return cell.copy()
    text = cell.plain
    while cell_len(text) > width - 1:
        text = text[1:]
    return Text(f"…{text}", cell.style)

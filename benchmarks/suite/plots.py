"""Plots of raw results, as SVG: axes with units, intervals, and colours that all readers can tell.

The colours are those of Okabe and Ito (Color Universal Design, 2008); lines also differ in their
markers. `offload` is blue everywhere, and drawn in every panel, for comparison.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

mpl.use("svg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from benchmarks.suite.contenders import CONTENDERS, OURS
from benchmarks.suite.results import describe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.suite.results import Cell, Results
    from benchmarks.suite.scenario import Metric, Plot, Scenario

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"
# Their eighth, a yellow, cannot be seen on white: grey and dashes stand in for it.
_OTHERS = (VERMILLION, GREEN, ORANGE, PURPLE, BLACK, SKY, "#999999", BLACK)
_DASHES = ("-", "-", "-", "-", "-", "-", "--", ":")
_MARKERS = ("s", "^", "D", "v", "P", "X", "*", "h")
_GREY = "#666666"
# Of a panel its families, with their titles.
_PANELS = (
    {"offload": "offload"},
    {"pool": "process pools for Python"},
    {"no pool": "no pool", "node": "Node"},
)
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "offload",
    "figure.facecolor": "white",
}
# A percentile is drawn only as far as so many requests lie beyond it.
_BEYOND = 3
_WIDTH_INCHES = 11.0
_WIDE = 200.0


def draw(scenario: Scenario, results: Results, plot: Plot, path: Path) -> bool:
    """Draw one plot; return whether there was anything to draw."""
    with plt.rc_context(_STYLE):
        match plot.kind:
            case "dots":
                figure = _dots(scenario, results, plot)
            case "lines":
                figure = _lines(scenario, results, plot)
            case "curves":
                figure = _curves(scenario, results, plot)
            case "time":
                figure = _time(results, plot)
        if figure is None:
            return False
        # No date: the same results give the same file.
        figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight", dpi=110)
        plt.close(figure)
        return True


def metric_of(scenario: Scenario, name: str) -> Metric:
    """Return the metric of this name."""
    return next(metric for metric in scenario.metrics if metric.name == name)


def _matching(results: Results, plot: Plot) -> list[Cell]:
    wanted = set(plot.where)
    return [cell for cell in results.cells() if wanted <= set(cell[1])]


def _family(contender: str) -> str:
    known = CONTENDERS.get(contender)
    return known.family if known is not None else "pool"


def _panels(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return panels with a title and contenders; `offload` is in all of them, last (on top)."""
    found: list[tuple[str, list[str]]] = []
    for families in _PANELS:
        inside = [name for name in names if _family(name) in families and name != OURS]
        if inside:
            there = {_family(name) for name in inside}
            title = "; ".join(text for family, text in families.items() if family in there)
            found.append((title, inside + [name for name in names if name == OURS]))
    return found or [("", list(names))]


def _looks(members: Sequence[str]) -> dict[str, dict[str, Any]]:
    looks: dict[str, dict[str, Any]] = {}
    others = [name for name in members if name != OURS]
    for number, name in enumerate(others):
        colour = _OTHERS[number % len(_OTHERS)]
        looks[name] = {"color": colour, "marker": _MARKERS[number % len(_MARKERS)], "lw": 1.4}
        looks[name]["ls"] = _DASHES[number % len(_DASHES)]
    if OURS in members:
        looks[OURS] = {"color": BLUE, "marker": "o", "lw": 2.8}
    for look in looks.values():
        look |= {"ms": 5.5, "mec": "#444444", "mew": 0.5}
    return looks


def _plain(value: float, _: object = None) -> str:
    """Return a number for an axis: 0.5, 20, 3,000."""
    return f"{value:,.0f}" if value >= 10 else f"{value:g}"


def _scale(axes: Axes, metric: Metric, plot: Plot, *, axis: str) -> None:
    """Set scale and label of the axis that has the metric."""
    getattr(axes, f"set_{axis}label")(metric.label)
    target = axes.xaxis if axis == "x" else axes.yaxis
    if plot.is_log:
        getattr(axes, f"set_{axis}scale")("log")
        low, high = target.get_view_interval()
        # Of less than two decades the powers of ten alone are too few to read it by.
        steps = (1.0, 2.0, 5.0) if high / max(low, 1e-9) < _WIDE else (1.0,)
        target.set_major_locator(LogLocator(subs=steps, numticks=12))
        target.set_minor_formatter(NullFormatter())
    target.set_major_formatter(FuncFormatter(_plain))


def _title(figure: Figure, plot: Plot, results: Results) -> None:
    figure.suptitle(plot.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    machine = results.document["machine"]
    figure.text(
        0.01,
        0.0,
        f"{machine['cpu']}, {machine['cpus']} CPUs, Python {machine['python']}; "
        f"{results.document['started'][:10]}; repetitions: {results.document['repetitions']}",
        fontsize=8,
        color=_GREY,
        va="top",
    )


def _dots(scenario: Scenario, results: Results, plot: Plot) -> Figure | None:
    metric = metric_of(scenario, plot.metric)
    fraction = 0.5 if metric.fraction is None else metric.fraction
    rows: list[tuple[float, float, float, str, bool]] = []
    known = {name for name, _ in plot.where}
    for cell in _matching(results, plot):
        estimate = results.estimate(cell, metric, scenario.metrics)
        if estimate is None:
            continue
        told = [describe([each]) for each in cell[1] if each[0] not in known]
        label = ", ".join([results.label(cell[0]), *told])
        found = [value * metric.factor for value in estimate.interval(fraction)]
        rows.append((found[0], found[1], found[2], label, _family(cell[0]) == "offload"))
    if not rows:
        return None
    # The best is at the top.
    rows.sort(key=lambda row: row[0], reverse=metric.better != "more")
    figure, axes = plt.subplots(figsize=(8.5, 0.32 * len(rows) + 1.3), layout="constrained")
    is_log = plot.is_log and min(row[0] for row in rows) > 0
    for position, (value, low, high, _, is_ours) in enumerate(rows):
        colour = BLUE if is_ours else _GREY
        if not math.isnan(low):
            axes.hlines(position, low, high, color=colour, lw=2.2, alpha=0.6)
        axes.plot(value, position, "o" if is_ours else "s", color=colour, ms=7, clip_on=False)
        axes.annotate(
            f"{value:,.3g}" if value < 1000 else f"{value:,.0f}",
            (value if math.isnan(high) else max(high, value), position),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(rows)), [row[3] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row[4]:
            text.set_color(BLUE)
            text.set_fontweight("bold")
    if is_log:
        _scale(axes, metric, plot, axis="x")
        axes.margins(x=0.12)
    else:
        axes.set_xlabel(metric.label)
        most = max(max(row[0], 0 if math.isnan(row[2]) else row[2]) for row in rows)
        axes.set_xlim(0, (most or 1.0) * 1.14)
    _title(figure, plot, results)
    return figure


def _grid(members: Sequence[tuple[str, list[str]]]) -> tuple[Figure, list[Axes]]:
    figure, grid = plt.subplots(
        1,
        len(members),
        figsize=(_WIDTH_INCHES * max(len(members), 2) / 3, 5.2),
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    return figure, list(grid[0])


def _legend(axes: Axes, handles: Sequence[Any]) -> None:
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.14), handlelength=2.5)


def _lines(scenario: Scenario, results: Results, plot: Plot) -> Figure | None:
    metric = metric_of(scenario, plot.metric)
    fraction = 0.5 if metric.fraction is None else metric.fraction
    series: dict[str, list[tuple[float, float, float, float]]] = {}
    for cell in _matching(results, plot):
        estimate = results.estimate(cell, metric, scenario.metrics)
        if estimate is not None:
            at = float(dict(cell[1])[plot.over])
            found = [value * metric.factor for value in estimate.interval(fraction)]
            series.setdefault(cell[0], []).append((at, found[0], found[1], found[2]))
    if not series:
        return None
    places = sorted({point[0] for points in series.values() for point in points})
    # Levels such as 0, 1, 2, 4, 8, 64 are steps, not a scale.
    position = {place: index for index, place in enumerate(places)}
    names = [name for name in results.contenders if name in series]
    members = _panels(names)
    figure, panels = _grid(members)
    for axes, (title, inside) in zip(panels, members, strict=True):
        handles = []
        for name, look in _looks(inside).items():
            points = sorted(series[name])
            x = [position[point[0]] for point in points]
            (line,) = axes.plot(
                x, [point[1] for point in points], label=results.label(name), **look
            )
            axes.fill_between(
                x,
                [point[1] if math.isnan(point[2]) else point[2] for point in points],
                [point[1] if math.isnan(point[3]) else point[3] for point in points],
                color=look["color"],
                alpha=0.18 if name == OURS else 0.08,
                lw=0,
            )
            handles.append(line)
        axes.set_title(title, loc="left")
        axes.set_xticks(range(len(places)), [f"{place:,.0f}" for place in places])
        axes.set_xlabel(plot.over.replace("_", " "))
        _limit(axes, scenario, metric)
        _legend(axes, handles)
    _scale(panels[0], metric, plot, axis="y")
    if not plot.is_log:
        panels[0].set_ylim(bottom=0)
    _title(figure, plot, results)
    return figure


def _limit(axes: Axes, scenario: Scenario, metric: Metric) -> None:
    """Draw the line above which nobody has waited, if the axis comes near it."""
    if scenario.timeout_ms is None or not metric.key.endswith("_ms"):
        return
    if axes.get_ylim()[1] > scenario.timeout_ms * 0.5:
        axes.axhline(scenario.timeout_ms, color=_GREY, ls="--", lw=1)


def _curves(scenario: Scenario, results: Results, plot: Plot) -> Figure | None:
    metric = next(each for each in scenario.metrics if each.key == plot.metric)
    samples: dict[str, list[float]] = {}
    for cell in _matching(results, plot):
        values = [value for row in results.rows(cell) for value in row["samples"][plot.metric]]
        if values:
            samples[cell[0]] = sorted(values)
    if not samples:
        return None
    members = _panels([name for name in results.contenders if name in samples])
    figure, panels = _grid(members)
    for axes, (title, inside) in zip(panels, members, strict=True):
        handles = []
        for name, look in _looks(inside).items():
            values = samples[name]
            most = max(len(values) - _BEYOND, 1)
            # Evenly spread on the axis; rank r of n is the quantile r/n.
            ranks = sorted(
                {
                    max(round(len(values) * (1 - 10 ** -(step / 12))), 1)
                    for step in range(1, math.ceil(12 * math.log10(len(values))) + 1)
                }
            )
            ranks = [rank for rank in ranks if rank <= most] or [most]
            (line,) = axes.plot(
                [-math.log10(1 - rank / len(values)) for rank in ranks],
                [values[rank - 1] * metric.factor for rank in ranks],
                label=results.label(name),
                markevery=4,
                **look,
            )
            handles.append(line)
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_locator(FixedLocator([-math.log10(0.5), 1, 2, 3]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels(["p50", "p90", "p99", "p99.9"])
        axes.set_xlim(left=0)
        axes.set_xlabel("percentile of requests")
        _limit(axes, scenario, metric)
        _legend(axes, handles)
    _scale(panels[0], metric, plot, axis="y")
    panels[0].set_ylabel(f"{metric.label.split(' ')[0]}, ms from the intended send time")
    _title(figure, plot, results)
    return figure


def _time(results: Results, plot: Plot) -> Figure | None:
    cells = {cell[0]: cell for cell in _matching(results, plot)}
    names = [name for name in results.contenders if name in cells]
    if not names:
        return None
    columns = min(4, len(names))
    count = math.ceil(len(names) / columns)
    figure, grid = plt.subplots(
        count,
        columns,
        figsize=(_WIDTH_INCHES, 1.75 * count + 0.8),
        sharex=True,
        sharey=True,
        layout="constrained",
        squeeze=False,
    )
    panels = [axes for line in grid for axes in line]
    for axes, name in zip(panels, names, strict=False):
        begin = 0.0
        for row in results.rows(cells[name]):
            at = [begin + each / 1e3 for each in row["times"][plot.metric]]
            # As a picture within the picture: thousands of dots as shapes are megabytes.
            axes.plot(
                at,
                row["samples"][plot.metric],
                ".",
                ms=2.5,
                color=BLUE if _family(name) == "offload" else BLACK,
                rasterized=True,
            )
            # As long as this cell was measured, which may be longer than others of its scenario.
            begin += math.ceil(max(row["times"][plot.metric]) / 1e3)
            axes.axvline(begin, color="#bbbbbb", lw=0.8)
        axes.set_title(results.label(name), loc="left", fontsize=9)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_formatter(FuncFormatter(_plain))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    figure.supxlabel("seconds since the start of the repetitions", fontsize=10)
    figure.supylabel("/fast, ms", fontsize=10)
    _title(figure, plot, results)
    return figure

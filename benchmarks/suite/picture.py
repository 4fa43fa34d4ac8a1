"""The picture at the top of README, for light and dark pages: a dot for each contender."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.suite import catalogue, plots
from benchmarks.suite.contenders import CONTENDERS, OURS
from benchmarks.suite.headline import CELL

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from benchmarks.suite.results import Results

# Of the variants of one pool the default of its Python: the picture is for a first look.
_SHOWN = (
    *(OURS, "anyio", "loky", "executor-fork", "pebble", "aiomultiprocess", "express-piscina"),
    *("express-worker-thread-per-request", "inline", "run_in_threadpool"),
)
_METRIC = "fast_ms p99"
# Of the page that the picture is on: ground, text, others, ours, lines.
_THEMES = {
    "light": ("#ffffff", "#1f2328", "#6e7781", "#0969da", "#d0d7de"),
    "dark": ("#0d1117", "#e6edf3", "#8b949e", "#58a6ff", "#30363d"),
}
_TEN, _THOUSAND = 10.0, 1000.0


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw the picture for light and for dark pages; return the files."""
    scenario = catalogue.scenario(results.scenario)
    metric = plots.metric_of(scenario, _METRIC)
    rows: list[tuple[float, float, float, str]] = []
    for name, parameters in results.cells():
        estimate = results.estimate((name, parameters), metric, scenario.metrics)
        if name in _SHOWN and parameters == CELL and estimate is not None:
            value, low, high = estimate.interval(metric.fraction or 0.5)
            rows.append((value, low, high, name))
    if not rows:
        return []
    # The best is at the top.
    rows.sort(reverse=True)
    written: list[Path] = []
    for theme, (ground, ink, grey, blue, line) in _THEMES.items():
        style: Any = {
            "figure.facecolor": ground,
            "axes.facecolor": ground,
            "text.color": ink,
            "axes.labelcolor": grey,
            "axes.edgecolor": line,
            "xtick.color": grey,
            "ytick.color": ink,
            "grid.color": line,
            "svg.hashsalt": "offload",
        }
        with plt.rc_context(style):
            figure, axes = plt.subplots(figsize=(8.4, 0.3 * len(rows) + 1.0), layout="constrained")
            for position, (value, low, high, name) in enumerate(rows):
                colour = blue if CONTENDERS[name].is_ours else grey
                axes.hlines(position, low, high, color=colour, lw=5, alpha=0.35)
                axes.plot(value, position, "o", color=colour, ms=8)
                told = _told(value)
                axes.annotate(
                    told,
                    (max(value, high), position),
                    xytext=(9, 0),
                    textcoords="offset points",
                    color=blue if CONTENDERS[name].is_ours else ink,
                    va="center",
                    fontsize=10,
                    fontweight="bold" if CONTENDERS[name].is_ours else "normal",
                )
            _label(axes, [results.label(row[3]) for row in rows], blue)
            figure.suptitle(
                "p99 of /fast while 8 clients keep both CPUs busy (bands: 95 % intervals)",
                x=0.012,
                ha="left",
                fontsize=12,
                fontweight="bold",
            )
            path = folder / f"headline-{theme}.svg"
            # No date: the same results give the same file.
            figure.savefig(path, format="svg", metadata={"Date": None})
            plt.close(figure)
            written.append(path)
    return written


def _told(milliseconds: float) -> str:
    if milliseconds >= _THOUSAND:
        return f"{milliseconds / _THOUSAND:.2g} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= _TEN else f"{milliseconds:.2g} ms"


def _label(axes: Axes, labels: list[str], blue: str) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.6, len(labels) - 0.4)
    axes.tick_params(length=0)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        if label.startswith("offload"):
            tick.set_color(blue)
            tick.set_fontweight("bold")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_xscale("log")
    axes.set_axisbelow(True)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _told(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)

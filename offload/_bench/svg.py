"""The two kinds of plot of the report, as SVG: dots over time, and percentile curves.

Plain text, no library: both are a logarithmic axis, some ticks and one path. Colours are classes,
so that the page decides them for light and dark. Each plot is drawn for the width that it is shown
at, so that its letters have the size of the text beside it, on a telephone too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Curve", "Panel", "curves", "over_time"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 12.0, 22.0, 38.0
_GAP = 26.0
# Dots this close are one dot, in pixels: what cannot be seen is not written.
_GRAIN = 0.5
_LEAST_TICK_PIXELS = 18.0
_TIME_TICKS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_TIME_TICK_PIXELS = 55.0


@dataclass(frozen=True, slots=True)
class Panel:
    """Dots over time.

    Attributes:
        title: above it.
        style: the class of its dots.
        dots: (seconds, milliseconds).
        breaks: seconds at which another round begins.
    """

    title: str
    style: str
    dots: Sequence[tuple[float, float]]
    breaks: Sequence[float]


@dataclass(frozen=True, slots=True)
class Curve:
    """Values of which the percentiles are drawn.

    Attributes:
        title: in the legend.
        style: the class of its line.
        values: milliseconds, sorted.
    """

    title: str
    style: str
    values: Sequence[float]


class _LogAxis:
    """Milliseconds from the bottom to the top, by whole decades."""

    def __init__(self, values: Iterable[float], bottom: float, top: float) -> None:
        known = [value for value in values if value > 0]
        low, high = (min(known), max(known)) if known else (0.1, 10.0)
        self._low = math.floor(math.log10(low))
        self._high = max(math.ceil(math.log10(high)), self._low + 1)
        self._bottom, self._scale = bottom, (top - bottom) / (self._high - self._low)

    def at(self, value: float) -> float:
        """Return the pixel of a value; one that is too small for the axis is at its bottom."""
        floor = 10.0**self._low
        return self._bottom + (math.log10(max(value, floor)) - self._low) * self._scale

    def ticks(self) -> list[tuple[float, str]]:
        """Return values and labels: each decade, and 2 and 5 between them where there is room."""
        decade = abs(self._scale)
        steps = [1.0, 2.0, 5.0] if decade > 4 * _LEAST_TICK_PIXELS else [1.0]
        if decade > 2 * _LEAST_TICK_PIXELS and len(steps) == 1:
            steps = [1.0, 3.0]
        found: list[tuple[float, str]] = []
        for exponent in range(self._low, self._high + 1):
            for step in steps:
                if exponent < self._high or step == 1.0:
                    value = step * 10.0**exponent
                    found.append((value, f"{value:,.10g}"))
        return found


def over_time(
    panels: Sequence[Panel], *, label: str, threshold: float | None, width: float, height: float
) -> str:
    """Return dots over time, panels below one another with the same axes.

    Args:
        panels: what to draw; the first one on top.
        label: of the upright axis, with its unit.
        threshold: a value that is marked by a line, or None.
        width: of the plot, in pixels.
        height: of each panel, in pixels.
    """
    last = max((dot[0] for panel in panels for dot in panel.dots), default=1.0)
    right = width - _RIGHT
    whole = _TOP + len(panels) * height + (len(panels) - 1) * _GAP + _BOTTOM
    every = next(
        (t for t in _TIME_TICKS if t / last * (right - _LEFT) >= _TIME_TICK_PIXELS), _TIME_TICKS[-1]
    )
    values = [dot[1] for panel in panels for dot in panel.dots]
    if threshold is not None:
        values.append(threshold)
    parts: list[str] = []
    for number, panel in enumerate(panels):
        top = _TOP + number * (height + _GAP)
        bottom = top + height
        axis = _LogAxis(values, bottom, top)

        def x(seconds: float) -> float:
            return _LEFT + seconds / last * (right - _LEFT)

        parts += _frame(axis, top, bottom, right)
        parts.append(_text(_LEFT, top - 7, panel.title, "start", "title"))
        parts += [
            f'<path class="break" d="M{x(at):.1f} {top:g}V{bottom:g}"/>' for at in panel.breaks
        ]
        for index in range(int(last / every) + 1):
            at = x(index * every)
            parts.append(f'<path class="tick" d="M{at:.1f} {bottom:g}v4"/>')
            if number == len(panels) - 1:
                parts.append(_text(at, bottom + 17, f"{index * every:g}", "middle"))
        if threshold is not None:
            at = axis.at(threshold)
            parts.append(f'<path class="mark" d="M{_LEFT:g} {at:.1f}H{right:g}"/>')
        cells = {
            (round(x(seconds) / _GRAIN), round(axis.at(value) / _GRAIN))
            for seconds, value in panel.dots
        }
        dots = "".join(f"M{a * _GRAIN:g} {b * _GRAIN:g}h0" for a, b in sorted(cells))
        parts.append(f'<path class="dots {panel.style}" d="{dots}"/>')
    parts.append(_text((_LEFT + right) / 2, whole - 5, "seconds measured, all rounds", "middle"))
    parts.append(_upright(label, _TOP, whole - _BOTTOM))
    return _svg(width, whole, label + " over time", parts)


def curves(lines: Sequence[Curve], *, label: str, width: float, height: float) -> str:
    """Return percentile curves: the tail gets as much room as the rest, both axes logarithmic.

    Args:
        lines: what to draw.
        label: of the upright axis, with its unit.
        width: of the plot, in pixels.
        height: of the plot without its margins, in pixels.
    """
    top, bottom, right = _TOP, _TOP + height, width - _RIGHT
    whole = bottom + _BOTTOM
    axis = _LogAxis((value for line in lines for value in line.values), bottom, top)
    # A percentile is at log10(1 / (1 - p)): 90 % at 1, 99 % at 2, 99.9 % at 3.
    last = max(math.log10(max(len(line.values), 10)) for line in lines)

    def x(place: float) -> float:
        return _LEFT + place / last * (right - _LEFT)

    parts = _frame(axis, top, bottom, right)
    ticks = [(0.0, "0"), (math.log10(2), "50")]
    ticks += [(float(nines), _percent(nines)) for nines in range(1, int(last) + 1)]
    for place, name in ticks:
        at = x(place)
        parts.append(f'<path class="grid" d="M{at:.1f} {top:g}V{bottom:g}"/>')
        parts.append(_text(at, bottom + 17, name, "middle"))
    at_legend = _LEFT
    for line in lines:
        parts.append(f'<path class="line {line.style}" d="{_steps(line.values, axis, x)}"/>')
        parts.append(f'<path class="line {line.style}" d="M{at_legend:g} 10h22"/>')
        parts.append(_text(at_legend + 28, 14, line.title, "start", "title"))
        # The letters' width is not known here; this is a generous guess.
        at_legend += 28 + 7.5 * len(line.title) + 14
    parts.append(_text((_LEFT + right) / 2, whole - 5, "percentile of the requests", "middle"))
    parts.append(_upright(label, top, bottom))
    return _svg(width, whole, label + " by percentile", parts)


def _steps(values: Sequence[float], axis: _LogAxis, x: Callable[[float], float]) -> str:
    count = len(values)
    path: list[str] = []
    latest = -math.inf
    for index, value in enumerate(values):
        at = x(math.log10(count / (count - index)))
        if at - latest >= _GRAIN or index == count - 1:
            path.append(f"{at:.1f} {axis.at(value):.1f}")
            latest = at
    return "M" + "L".join(path) if path else ""


def _percent(nines: int) -> str:
    return "90" if nines == 1 else "99" + ("." + "9" * (nines - 2) if nines > len("99") else "")


def _frame(axis: _LogAxis, top: float, bottom: float, right: float) -> list[str]:
    parts = [
        f'<path class="axis" d="M{_LEFT:g} {top:g}V{bottom:g}H{right:g}"/>',
    ]
    for value, name in axis.ticks():
        at = axis.at(value)
        parts.append(f'<path class="grid" d="M{_LEFT:g} {at:.1f}H{right:g}"/>')
        parts.append(_text(_LEFT - 6, at + 4, name, "end"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    marked = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{marked}>{escape(text)}</text>'


def _upright(text: str, top: float, bottom: float) -> str:
    middle = (top + bottom) / 2
    return (
        f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(text)}</text>"
    )


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )

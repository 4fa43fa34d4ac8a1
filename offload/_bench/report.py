"""The report: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING

from offload._bench.svg import Curve, Panel, curves, over_time
from offload._bench.text import details, milliseconds, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offload._bench.result import Cell, Result
    from offload._bench.verdict import Verdict

__all__ = ["as_html"]

# Pixels: what a reader's column has, and what a telephone has.
_WIDE, _NARROW = 760.0, 340.0

# Blue and vermilion of Okabe and Ito, which the colour-blind can tell apart, each in the lightness
# that its background asks for. https://jfly.uni-koeln.de/color/
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e;
  --rule: #d1d9e0; --grid: #e7ebef; --panel: #f6f8fa; --idle: #0072b2; --loaded: #b84a00;
  --good: #1a7f37; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --paper: #0f1318; --ink: #e6edf3; --soft: #9ba6b1;
  --rule: #333b44; --grid: #222931; --panel: #171c23; --idle: #56b4e9; --loaded: #f08a4b;
  --good: #4ac26b; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
main { max-width: 800px; margin: 0 auto; padding: 24px 20px 48px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 8px; }
p { margin: 8px 0; } .soft, figcaption { color: var(--soft); font-size: 14px; }
code { font-family: ui-monospace, "Liberation Mono", Menlo, monospace; font-size: .92em;
  overflow-wrap: anywhere; }
.verdict { border-left: 4px solid var(--soft); background: var(--panel); padding: 10px 14px;
  margin: 18px 0; overflow-wrap: anywhere; } .verdict p { margin: 2px 0; }
.verdict.pass { border-color: var(--good); } .verdict.fail { border-color: var(--bad); }
.pass strong { color: var(--good); } .fail strong { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: 5px 0 5px 14px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; }
tbody th { font-weight: 500; } tr.idle th { color: var(--idle); }
tr.loaded th { color: var(--loaded); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 8px 0 0; } svg { display: block; max-width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; } svg text.title { fill: var(--ink); }
svg path { fill: none; } .axis, .tick { stroke: var(--soft); } .grid { stroke: var(--grid); }
.break { stroke: var(--soft); stroke-dasharray: 1 4; }
.mark { stroke: var(--soft); stroke-dasharray: 6 4; }
.dots { stroke-width: 2.6; stroke-linecap: round; opacity: .75; } .line { stroke-width: 2; }
.idle { stroke: var(--idle); } .loaded { stroke: var(--loaded); }
.line.idle { stroke-dasharray: 7 3; }
.narrow { display: none; }
@media (max-width: 640px) { .wide { display: none; } .narrow { display: block; }
  dl { display: block; } dd { margin-bottom: 8px; } main { padding: 16px 12px 32px; }
  th, td { font-size: 14px; padding-left: 10px; } }
@media print { body { font-size: 12px; } }
"""


def as_html(result: Result, verdict: Verdict) -> str:
    """Return the report as one page.

    All that comes from outside, names, paths and the server's words, is escaped, and the page's
    own policy lets nothing load and nothing run.
    """
    settings = result.settings
    path = escape(settings.fast.path)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(result.started_at))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>offload bench: {path} beside {escape(settings.heavy.path)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Does <code>{path}</code> stay fast beside <code>{escape(settings.heavy.path)}</code>?</h1>
<p class="soft"><code>{escape(result.name)}</code>, {when}</p>
{_verdict(result, verdict)}
<h2>Round trip of <code>{path}</code></h2>
{_table(result)}
<p class="soft">From the moment a request was due to the last byte of its answer, so that waiting
for a server that does not answer counts for every request that waits. {settings.rate:g} requests a
second, {len(result.rounds)} rounds of {settings.seconds:g} s of either kind. Intervals: bootstrap
over seconds.</p>
<h2>Over time</h2>
{
        _figure(
            lambda width: _over_time(result, width, _times, "round trip, ms"),
            f"Each dot is a request. Dotted lines: another round begins. Dashed line: "
            f"{milliseconds(result.threshold_ms)}, from which on a request counts as stalled.",
        )
    }
<h2>Percentiles</h2>
{
        _figure(
            lambda width: _curves(result, width),
            "Right of 99 is the slowest hundredth. Both axes are logarithmic.",
        )
    }
{_lag_section(result)}
<h2>Besides</h2>
{_pairs(details(result))}
{_notes(verdict)}
<h2>Measured on</h2>
{_pairs(list(result.facts.items()))}
<p class="soft">By <code>offload bench</code>: an open-loop stream to
<code>{escape(settings.fast.method)} {path}</code>, beside it
{settings.clients} closed-loop clients of
<code>{escape(settings.heavy.method)} {escape(settings.heavy.path)}</code>; idle and loaded in
turns, {settings.warm_up:g} s of warm-up before each.</p>
</main>
</body>
</html>
"""


def _verdict(result: Result, verdict: Verdict) -> str:
    ratio, limit = result.ratio, result.settings.max_ratio
    text = (
        f"p99 under load is {ratio.value:.2f} times the idle p99 "
        f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f})"
    )
    style, lines = "", [f"{text}."]
    if limit is not None and verdict.is_passed:
        style, lines = " pass", [f"<strong>Pass.</strong> {text}; the limit is {limit:g}."]
    elif limit is not None:
        style = " fail"
        lines = [f"<strong>Fail:</strong> {escape(each)}." for each in verdict.reasons]
    if result.is_disturbed:
        lines.append("The machine was disturbed meanwhile: see the notes.")
    paragraphs = "".join(f"<p>{line}</p>" for line in lines)
    return f'<div class="verdict{style}">{paragraphs}</div>'


def _table(result: Result) -> str:
    head, *body = rows(result)
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr class="{style}"><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for style, (name, *cells) in zip(("idle", "loaded", "", ""), body, strict=True)
    )
    return (
        f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return f"<dl>{items}</dl>"


def _notes(verdict: Verdict) -> str:
    if not verdict.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
    return f"<h2>Notes</h2><ul>{items}</ul>"


def _figure(draw: Callable[[float], str], caption: str) -> str:
    return (
        f'<figure><div class="wide">{draw(_WIDE)}</div><div class="narrow">{draw(_NARROW)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _titles(result: Result) -> tuple[str, str]:
    return "idle", f"{result.settings.clients} heavy clients"


def _times(cell: Cell) -> list[tuple[float, float]]:
    return cell.times


def _lags(cell: Cell) -> list[tuple[float, float]]:
    return cell.lags


def _over_time(
    result: Result,
    width: float,
    of: Callable[[Cell], list[tuple[float, float]]],
    label: str,
) -> str:
    seconds = result.settings.seconds
    sides = ([each.idle for each in result.rounds], [each.loaded for each in result.rounds])
    panels = [
        Panel(
            title,
            style,
            [
                (number * seconds + at / 1e3, value)
                for number, cell in enumerate(cells)
                for at, value in of(cell)
            ],
            [number * seconds for number in range(1, len(cells))],
        )
        for title, style, cells in zip(_titles(result), ("idle", "loaded"), sides, strict=True)
    ]
    threshold = result.threshold_ms if of is _times else None
    return over_time(panels, label=label, threshold=threshold, width=width, height=150.0)


def _curves(result: Result, width: float) -> str:
    sides = ([each.idle for each in result.rounds], [each.loaded for each in result.rounds])
    lines = [
        Curve(title, style, sorted(took for cell in cells for _, took in cell.times))
        for title, style, cells in zip(_titles(result), ("idle", "loaded"), sides, strict=True)
    ]
    return curves(lines, label="round trip, ms", width=width, height=240.0)


def _lag_section(result: Result) -> str:
    if result.idle.lag is None or result.loaded.lag is None:
        return ""
    figure = _figure(
        lambda width: _over_time(result, width, _lags, "event-loop lag, ms"),
        "How late a timer on the server's own event loop came, every 10 ms: what its other "
        "requests, timers and connections wait for. A millisecond is the timer's own grain.",
    )
    return f"<h2>Event-loop lag</h2>{figure}"

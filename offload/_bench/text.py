"""A result as text for a terminal, and as JSON for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from offload._bench.numbers import FRACTIONS
from offload._bench.result import counted

if TYPE_CHECKING:
    from offload._bench.numbers import Estimate
    from offload._bench.result import Result, Side
    from offload._bench.verdict import Verdict

__all__ = ["as_json", "as_text", "milliseconds", "rows"]

_VERSION = 1


def milliseconds(value: float) -> str:
    """Return a duration with three digits: `0.71 ms`, `12.3 ms`, `1,240 ms`."""
    if math.isnan(value):
        return "-"
    digits = max(0, 2 - math.floor(math.log10(max(value, 0.1))))
    return f"{value:,.{min(digits, 2)}f} ms"


def rows(result: Result) -> list[list[str]]:
    """Return the table: a head, a row for each side, ratios and their intervals."""
    table, clients = result.table, result.settings.clients

    def line(name: str, estimates: dict[str, Estimate]) -> list[str]:
        return [name, *(milliseconds(estimates[each].value) for each in FRACTIONS)]

    ratios = [table.ratio[each] for each in FRACTIONS]
    return [
        ["", *FRACTIONS],
        line("idle", table.before),
        line(f"{clients} heavy clients", table.after),
        ["ratio", *(f"{each.value:.2f}" for each in ratios)],
        ["95 % interval", *(f"{each.low:.2f}-{each.high:.2f}" for each in ratios)],
    ]


def details(result: Result) -> list[tuple[str, str]]:
    """Return what there is to tell besides the table, as pairs of name and text."""
    heavy = result.settings.heavy
    p50, p99 = (milliseconds(each) for each in result.heavy_round_trip_ms.values())
    found = [
        (
            f"{heavy.method} {heavy.path}",
            (
                f"{result.heavy_per_second:.2f} a second; round trip p50 {p50}, p99 {p99}; "
                f"alone {milliseconds(result.alone_ms)}"
            ),
        ),
        ("heavy errors", counted(result.heavy_failures) or "none"),
        (
            f"errors of {result.settings.fast.path}",
            (
                f"idle {counted(result.idle.failures) or 'none'}; "
                f"under load {counted(result.loaded.failures) or 'none'}"
            ),
        ),
        (
            f"stalls over {milliseconds(result.threshold_ms)}",
            f"idle {_stalls(result.idle)}; under load {_stalls(result.loaded)}",
        ),
    ]
    # Memory is looked at when the last answer has come: to read it costs the server time.
    for name, text, when in (
        ("event-loop lag", _lag, "under"),
        ("memory (PSS)", _memory, "after"),
    ):
        idle, loaded = text(result.idle), text(result.loaded)
        if idle and loaded:
            found.append((name, f"idle {idle}; {when} load {loaded}"))
    return found


def _stalls(side: Side) -> str:
    if not side.stalls:
        return "none"
    longest = max(each.longest_ms for each in side.stalls)
    return (
        f"{side.stalls_per_second:.2f} a second (median {milliseconds(side.stall_ms)}, "
        f"longest {milliseconds(longest)})"
    )


def _lag(side: Side) -> str:
    if side.lag is None:
        return ""
    return f"p99 {milliseconds(side.lag['p99'])}, max {milliseconds(side.lag['max'])}"


def _memory(side: Side) -> str:
    return "" if side.memory_bytes is None else f"{side.memory_bytes / 2**20:,.0f} MiB"


def as_text(result: Result, verdict: Verdict) -> str:
    """Return what the command prints."""
    settings = result.settings
    table = rows(result)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        (
            f"{settings.fast.method} {settings.fast.path}, {settings.rate:g} requests a second, "
            f"{len(result.rounds)} rounds of {settings.seconds:g} s idle and as much under load"
        ),
        "",
        *(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ),
        "",
    ]
    pairs = details(result)
    width = max(len(name) for name, _ in pairs)
    lines += [f"{name.ljust(width)}  {text}" for name, text in pairs]
    lines += ["", *(f"note: {note}" for note in verdict.notes)] if verdict.notes else []
    lines += ["", *_outcome(result, verdict)]
    return "\n".join(lines)


def _outcome(result: Result, verdict: Verdict) -> list[str]:
    limit = result.settings.max_ratio
    if limit is None:
        return [f"p99 under load is {result.ratio.value:.2f} times that of idle"]
    if verdict.is_passed:
        return [f"PASS: the p99 ratio {result.ratio.value:.2f} is within the limit of {limit:g}"]
    return [f"FAIL: {reason}" for reason in verdict.reasons]


def as_json(result: Result, verdict: Verdict) -> dict[str, Any]:
    """Return all of it: what was asked, what was found, and every request's time."""
    settings = result.settings
    table = {
        name: {each: estimate._asdict() for each, estimate in estimates.items()}
        for name, estimates in (
            ("idle_ms", result.table.before),
            ("loaded_ms", result.table.after),
            ("ratio", result.table.ratio),
        )
    }
    return {
        "version": _VERSION,
        "name": result.name,
        "started_unix": result.started_at,
        "facts": result.facts,
        "settings": {
            "fast": f"{settings.fast.method} {settings.fast.url}",
            "heavy": f"{settings.heavy.method} {settings.heavy.url}",
            "clients": settings.clients,
            "rate": settings.rate,
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "warm_up": settings.warm_up,
            "timeout": settings.timeout,
            "max_ratio": settings.max_ratio,
        },
        "verdict": asdict(verdict) | {"passed": verdict.is_passed},
        "table": table,
        "heavy": {
            "per_second": result.heavy_per_second,
            "round_trip_ms": _finite(result.heavy_round_trip_ms),
            "alone_ms": result.alone_ms,
            "failures": result.heavy_failures,
        },
        "idle": _side(result.idle),
        "loaded": _side(result.loaded),
        "dropped_rounds": result.dropped,
        "rounds": [
            {
                name: {"load": cell.load, "beats": cell.beats, "memory_bytes": cell.memory_bytes}
                for name, cell in (("idle", each.idle), ("loaded", each.loaded))
            }
            for each in result.rounds
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "requests": side.requests,
        "failures": side.failures,
        "stalls_per_second": side.stalls_per_second,
        "stall_ms": _finite({"median": side.stall_ms})["median"],
        "own_stalls": side.own_stalls,
        "lag_ms": side.lag,
        "memory_bytes": side.memory_bytes,
    }


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}

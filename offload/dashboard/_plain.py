"""The page of pools as plain HTML: for who has no JavaScript, and for the terminal."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["plain_page"]

_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>offload, plain</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static/dashboard.css">
<script src="static/theme.js"></script>
<body>
<header><h1>offload</h1>
<nav aria-label="Pages"><a href="./">Pools</a> <a href="jobs">Jobs</a>
<a href="schedules">Schedules</a> <a href="plain" aria-current="page">Plain</a></nav></header>
<main>
"""
_FAILURES = 20


def plain_page(sample: Mapping[str, Any]) -> bytes:
    """Return a sample as a page of tables, in UTF-8."""
    parts = [_HEAD, f"<p>At {_time(sample['at'])}. <a href='plain'>Look again</a></p>"]
    parts += [_pool(pool) for pool in sample["pools"]] or ["<p>This process has no pool yet.</p>"]
    parts.append("</main></body></html>\n")
    # What UTF-8 cannot hold, such as half of a character in the name of a file, is written as "?".
    return "".join(parts).encode("utf-8", "replace")


def _pool(pool: Mapping[str, Any]) -> str:
    most = pool["max_queued"]
    counts = [(outcome.replace("_", " "), pool[outcome]) for outcome in pool["outcomes"]]
    facts = [
        ("state", pool["state"]),
        ("busy", f"{pool['busy']} of {pool['max_workers']}"),
        ("waiting", f"{pool['queued']}" + ("" if most is None else f" of {most}")),
        *counts,
        ("run, p50", _seconds(pool["run"], "p50")),
        ("run, p99", _seconds(pool["run"], "p99")),
        ("wait, p99", _seconds(pool["wait"], "p99")),
    ]
    workers = [
        (
            each["pid"] or "-",
            each["state"],
            each["function"] or "",
            "" if each["run_seconds"] is None else _duration(each["run_seconds"]),
            each["tasks_done"],
        )
        for each in pool["workers"]
    ]
    functions = [
        (
            each["name"],
            each["running"],
            each["queued"],
            each["completed"],
            sum(each[outcome] for outcome in pool["outcomes"] if outcome != "completed"),
            _seconds(each["run"], "p50"),
            _seconds(each["run"], "p99"),
        )
        for each in pool["functions"]
    ]
    failures = [
        (_time(each["at"]), each["kind"], each["function"], f"{each['error']}: {each['message']}")
        for each in reversed(pool["failures"][-_FAILURES:])
    ]
    listed = "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in facts)
    return (
        f"<section class=card><h2>{_text(pool['name'])}</h2><dl class=tiles>{listed}</dl>"
        + _table("Workers", ("Worker", "State", "Function", "running for", "tasks"), workers)
        + _table(
            "Functions",
            ("Function", "running", "waiting", "done", "not done", "run, p50", "run, p99"),
            functions,
        )
        + _table("Recent failures", ("At", "Kind", "Function", "Error"), failures)
        + "</section>\n"
    )


# Those that may be long, and are broken; others are not.
_LONG = ("Function", "Error")


def _table(title: str, heads: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    head = "".join(f'<th role="columnheader" scope="col">{_text(each)}' for each in heads)
    body = "".join('<tr role="row">' + "".join(map(_cell, heads, row)) for row in rows)
    if not body:
        return f"<h3>{_text(title)}: none</h3>"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(title)}">'
        f'<table class="stack" role="table"><caption>{_text(title)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{head}</thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def _cell(name: str, value: object) -> str:
    kind = "wide" if name in _LONG else ""
    return f'<td role="cell" class="{kind}" data-label="{_text(name)}">{_text(value)}'


def _seconds(histogram: Mapping[str, Any], name: str) -> str:
    return _duration(histogram[name]) if histogram["count"] else "-"


def _duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:,.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _text(value: object) -> str:
    return escape(str(value))

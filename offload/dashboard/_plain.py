"""The pages as plain HTML, for browsers without JavaScript and in the terminal."""

from __future__ import annotations

import time
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from offload.dashboard._pages import head, links

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["plain_jobs", "plain_page", "plain_schedules"]

_LINKS = (
    ("plain", "Pools"),
    ("plain-jobs", "Jobs"),
    ("plain-schedules", "Schedules"),
    ("./", "Live page"),
)
_FAILURES = 20
_STATES = ("waiting", "delayed", "active", "failed", "cancelled", "completed")


def plain_page(sample: Mapping[str, Any]) -> bytes:
    """Return a sample of pools as a page of tables, in UTF-8."""
    pools = [_pool(pool) for pool in sample["pools"]] or ["<p>This process has no pool yet.</p>"]
    return _whole("plain", sample["at"], {}, pools)


def plain_jobs(
    told: Mapping[str, Any], page: Mapping[str, Any] | None, question: Mapping[str, str]
) -> bytes:
    """Return the jobs of a store as a page of tables, in UTF-8.

    Args:
        told: what `/jobs/overview` has.
        page: what `/jobs/list` has; None: there is no store.
        question: what was asked for, by the address.
    """
    if page is None:
        return _whole("plain-jobs", told["at"], {}, ["<p>This process has opened no jobs.</p>"])
    stores = [each["name"] for each in told["stores"]]
    parts: list[str] = []
    if len(stores) > 1:
        shown = (_link("plain-jobs", name, {"store": name}) for name in stores)
        parts.append(f"<p>Stores: {', '.join(shown)}</p>")
    parts.append(f"<section class=card><h2>{_text(told['store'])}</h2>")
    queues = [
        (
            queue["name"],
            *(queue[state] for state in _STATES),
            "paused" if queue["is_paused"] else "",
        )
        for queue in told["queues"]
    ]
    parts.append(_table("Queues", ("Queue", *_STATES, "State"), queues))
    same = {name: question[name] for name in ("store", "queue") if name in question}
    states = (_link("plain-jobs", state, {**same, "state": state}) for state in _STATES)
    parts.append(f"<p>Jobs: {_link('plain-jobs', 'all', same)}, {', '.join(states)}</p>")
    jobs = [
        (
            job["id"],
            job["state"],
            job["function"],
            job["queue"],
            _time(job["created_at"]),
            f"{job['attempts']} of {job['max_attempts']}"
            + (f", {job['crashes']} crashed" if job["crashes"] else ""),
            job["error"] or "",
        )
        for job in page["jobs"]
    ]
    heads = ("Id", "State", "Function", "Queue", "enqueued", "attempts", "Error")
    title = f"Jobs, {question['state']}" if question.get("state") else "Jobs"
    parts.append(_table(title, heads, jobs))
    if page["cursor"]:
        parts.append(
            f"<p>{_link('plain-jobs', 'Next page', {**question, 'cursor': page['cursor']})}</p>"
        )
    return _whole("plain-jobs", told["at"], question, [*parts, "</section>\n"])


def plain_schedules(told: Mapping[str, Any], start: int) -> bytes:
    """Return schedules as a page of tables, in UTF-8.

    Args:
        told: what `/schedules/list` has.
        start: how many were left out before these.
    """
    parts = ["<section class=card>"]
    if told["problem"]:
        parts.append(f'<p class="trouble">{_text(told["problem"])}</p>')
    rows = [_schedule(each) for each in told["schedules"]]
    heads = ("Name", "Status", "Function", "Fire times", "next", "Last run", "took", "Error")
    parts.append(_table("Schedules", heads, rows))
    end = start + len(rows)
    if end < told["found"]:
        left = told["found"] - end
        parts.append(f"<p>{_link('plain-schedules', f'{left:,} more', {'start': f'{end}'})}</p>")
    question = {"start": f"{start}"} if start else {}
    return _whole("plain-schedules", told["at"], question, [*parts, "</section>\n"])


def _schedule(schedule: Mapping[str, Any]) -> tuple[Any, ...]:
    last = schedule["last"]
    took = ""
    if last is not None and last["ended_at"] is not None:
        took = _duration(max(last["ended_at"] - last["started_at"], 0.0))
    return (
        schedule["name"],
        _words(schedule["status"]),
        schedule["function"],
        schedule["fire_times"],
        (schedule["next_local"] or "-").replace("T", " "),
        "-"
        if last is None
        else f"{_words(last['outcome'] or 'not ended')}, {_time(last['started_at'])}",
        took,
        "" if last is None else last["error"] or "",
    )


def _whole(path: str, at: float, question: Mapping[str, str], parts: Sequence[str]) -> bytes:
    title = f"{dict(_LINKS)[path]}, plain \N{EN DASH} offload"
    page = (
        f"{head(title)}\n"
        f"<header><h1>offload</h1>\n{links(path, _LINKS)}</header>\n<main>\n"
        f"<p>At {_time(at)} {_zone(at)}. {_link(path, 'Look again', question)}</p>"
        f"{''.join(parts)}</main></body></html>\n"
    )
    # What UTF-8 cannot hold, such as half of a character in the name of a file, is written as "?".
    return page.encode("utf-8", "replace")


def _link(path: str, name: str, question: Mapping[str, str]) -> str:
    # As below: what UTF-8 cannot hold.
    asked = urlencode(dict(question), errors="replace")
    return f'<a href="{_text(f"{path}?{asked}" if asked else path)}">{_text(name)}</a>'


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pool(pool: Mapping[str, Any]) -> str:
    most = pool["max_queued"]
    counts = [(_words(outcome), pool[outcome]) for outcome in pool["outcomes"]]
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
        (
            _time(each["at"]),
            _words(each["kind"]),
            each["function"],
            f"{each['error']}: {each['message']}",
        )
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
_LONG = ("Function", "Name", "Fire times", "next", "Last run", "Id")


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
    kind = "wide" if name == "Error" else "long" if name in _LONG else ""
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


def _zone(at: float) -> str:
    # Of the server, whose times these are: whoever reads them may be elsewhere.
    return time.strftime("%Z", time.localtime(at))


def _text(value: object) -> str:
    return escape(str(value))

"""`offload jobs …`: look at jobs in the terminal, and act on them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Sequence

    from offload.jobs import Job, Jobs, JobStatus

    Action = Callable[[Jobs, argparse.Namespace], Coroutine[Any, Any, int]]

__all__ = ["add_arguments", "run"]

_SHORT: Final = 60
# Of one argument of `show`: the whole of it is for programs, by --json.
_MAX_ARGUMENTS: Final = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = "Where the jobs are: --url, else OFFLOAD_JOBS, else .offload/jobs.sqlite3."
    parser.add_argument("--url", help="such as sqlite:///jobs.db or redis://localhost")
    parser.add_argument("--json", action="store_true", help="print JSON, a line for each job")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="list jobs, the latest first")
    listed.add_argument("--state", action="append", default=[], help="only these, may be repeated")
    listed.add_argument("--queue", action="append", default=[], help="likewise")
    listed.add_argument("--function", action="append", default=[], help="likewise; module:name")
    listed.add_argument("--id", default="", metavar="PREFIX", help="what the id begins with")
    listed.add_argument("--limit", type=_limit, default=20, metavar="N", help="at most (20)")
    listed.add_argument("--oldest", action="store_true", help="the oldest first")
    shown = actions.add_parser("show", help="show one job: attempts, error, log records")
    shown.add_argument("id", help="its id, or the beginning of it")
    for name, what in (
        ("retry", "run failed or cancelled jobs again"),
        ("cancel", "cancel waiting jobs, and stop running ones"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("ids", nargs="+", metavar="ID", help="its id, or the beginning of it")
    counted = actions.add_parser("counts", help="count jobs by queue, function and state")
    counted.add_argument("--queue", action="append", default=[], help="only these")
    served = actions.add_parser(
        "dashboard", help="serve a web page of these jobs, to this machine only"
    )
    served.add_argument("--port", type=_port, default=8700, help="(8700; 0: any free one)")
    served.add_argument(
        "--actions",
        action="store_true",
        help="let every user of this machine retry, cancel and forget jobs, and pause queues",
    )
    for name, what in (
        ("pause", "pause queues: no worker program begins their jobs"),
        ("resume", "end the pause of queues"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("queues", nargs="+", metavar="QUEUE")


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:  # noqa: PLR2004 - as `Query` allows
        raise ValueError(text)
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:  # noqa: PLR2004 - of TCP
        raise ValueError(text)
    return number


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    from offload.errors import OffloadError
    from offload.jobs import Jobs

    try:
        jobs = Jobs(arguments.url)
        return anyio.run(partial(_run, jobs, arguments))
    except (OffloadError, ValueError, OSError, ModuleNotFoundError) as error:
        print(f"offload jobs: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Only the dashboard goes on until somebody ends it.
        return 0


async def _run(jobs: Jobs, arguments: argparse.Namespace) -> int:
    async with jobs:
        return await _ACTIONS[arguments.action](jobs, arguments)


async def _list(jobs: Jobs, arguments: argparse.Namespace) -> int:
    page = await jobs.find(
        states=arguments.state,
        queues=arguments.queue,
        functions=arguments.function,
        id_prefix=arguments.id,
        oldest_first=arguments.oldest,
        limit=arguments.limit,
    )
    if arguments.json:
        for status in page.jobs:
            print(json.dumps(_as_json(status)))
        return 0
    rows = [
        (
            status.id,
            status.state,
            status.function,
            status.queue,
            _age(status.created_at),
            str(status.attempts + status.crashes),
            _one_line(status),
        )
        for status in page.jobs
    ]
    _print_table(("ID", "STATE", "FUNCTION", "QUEUE", "AGE", "TRIES", ""), rows)
    if page.cursor is not None:
        print(f"… and more: --limit {arguments.limit} was reached")
    return 0


async def _show(jobs: Jobs, arguments: argparse.Namespace) -> int:
    job = await _job_of(jobs, arguments.id)
    status = await job.status()
    lines = await job.logs()
    if arguments.json:
        logs = [[line.at.isoformat(), line.level, line.message] for line in lines]
        print(json.dumps(_as_json(status) | {"logs": logs}))
        return 0
    _print_pairs(_facts(status))
    if status.history:
        print("\nattempts")
        rows = [
            (
                _at(attempt.started_at),
                attempt.outcome,
                f"{(attempt.ended_at - attempt.started_at).total_seconds():.3f} s",
                attempt.worker,
                "" if attempt.error is None else f"{attempt.error.type}: {attempt.error.message}",
            )
            for attempt in status.history
        ]
        _print_table(("STARTED", "OUTCOME", "TOOK", "WORKER", ""), rows)
    if status.error is not None and status.error.traceback:
        print(f"\n{_printable(status.error.traceback.rstrip())}")
    if lines:
        print("\nlog records")
        for line in lines:
            print(f"  {_at(line.at)} {_level(line.level):7} {_printable(line.message)}")
    return 0


async def _retry(jobs: Jobs, arguments: argparse.Namespace) -> int:
    for each in arguments.ids:
        job = await _job_of(jobs, each)
        await job.retry()
        print(f"{job.id} runs again")
    return 0


async def _cancel(jobs: Jobs, arguments: argparse.Namespace) -> int:
    from offload.jobs import CancelOutcome

    texts = {
        CancelOutcome.REMOVED: "is cancelled, it had not begun",
        CancelOutcome.ASKED: "runs, and is being stopped",
        CancelOutcome.OVER: "had ended already",
    }
    for each in arguments.ids:
        job = await _job_of(jobs, each)
        print(f"{job.id} {texts[await job.cancel()]}")
    return 0


async def _counts(jobs: Jobs, arguments: argparse.Namespace) -> int:
    counts = await jobs.counts(arguments.queue or None)
    if arguments.json:
        for each in counts:
            row = {"queue": each.queue, "function": each.function}
            print(json.dumps(row | {"state": each.state, "count": each.count}))
        return 0
    rows = sorted((each.queue, each.function, each.state, f"{each.count:,}") for each in counts)
    _print_table(("QUEUE", "FUNCTION", "STATE", "COUNT"), rows)
    paused = await jobs.paused()
    if paused:
        print(f"paused: {', '.join(sorted(paused))}")
    return 0


async def _dashboard(jobs: Jobs, arguments: argparse.Namespace) -> int:
    from offload._cli.jobs_dashboard import serve

    await serve(jobs, port=arguments.port, actions=arguments.actions)
    return 0


async def _pause(jobs: Jobs, arguments: argparse.Namespace) -> int:
    for queue in arguments.queues:
        await jobs.pause(queue)
        print(f"{queue} is paused; running jobs continue")
    return 0


async def _resume(jobs: Jobs, arguments: argparse.Namespace) -> int:
    for queue in arguments.queues:
        await jobs.resume(queue)
        print(f"{queue} is resumed")
    return 0


_ACTIONS: Final[dict[str, Action]] = {
    "list": _list,
    "show": _show,
    "retry": _retry,
    "cancel": _cancel,
    "counts": _counts,
    "dashboard": _dashboard,
    "pause": _pause,
    "resume": _resume,
}


async def _job_of(jobs: Jobs, text: str) -> Job[Any]:
    """Return the one job whose id this is, or begins with this."""
    from offload.jobs import JobNotFoundError

    try:
        return await jobs.get(text)
    except JobNotFoundError:
        found = (await jobs.find(id_prefix=text, limit=2)).jobs
        if len(found) != 1:
            many = "more than one job" if found else "no job"
            raise JobNotFoundError(
                f"there is {many} whose id is or begins with {text}", job_id=text
            ) from None
    return await jobs.get(found[0].id)


def _facts(status: JobStatus) -> list[tuple[str, str]]:
    options = status.options
    progress = status.progress
    facts = [
        ("id", status.id),
        ("function", status.function),
        ("arguments", _cut(status.arguments, _MAX_ARGUMENTS)),
        ("state", status.state + (", to be cancelled" if status.is_cancel_asked else "")),
        ("queue", f"{status.queue}, priority {options.priority}"),
        ("attempts", f"{status.attempts} of {options.max_attempts}"),
        ("crashes", f"{status.crashes}, of which it survives {options.max_crashes}"),
        ("enqueued", f"{_at(status.created_at)} by {status.enqueued_by}"),
    ]
    for name, at in (
        ("due", status.due_at),
        ("started", status.started_at),
        ("ended", status.ended_at),
        ("deadline", options.deadline),
    ):
        if at is not None:
            facts.append((name, _at(at)))
    if status.worker:
        facts.append(("worker", status.worker))
    if progress is not None:
        total = "" if progress.total is None else f" of {progress.total:g}"
        facts.append(("progress", f"{progress.done:g}{total}"))
    if status.result is not None:
        facts.append(("result", _cut(status.result, _MAX_ARGUMENTS)))
    if status.error is not None:
        facts.append(("error", f"{status.error.type}: {status.error.message}"))
    return facts


def _as_json(status: JobStatus) -> dict[str, Any]:
    from dataclasses import asdict

    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.isoformat()
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return value

    data: dict[str, Any] = plain(asdict(status))
    return data


def _one_line(status: JobStatus) -> str:
    if status.error is not None:
        return _cut(f"{status.error.type}: {status.error.message}", _SHORT)
    if status.progress is not None and status.progress.share is not None:
        return f"{status.progress.share:.0%}"
    return ""


def _age(at: datetime) -> str:
    seconds = max((datetime.now(UTC) - at).total_seconds(), 0.0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _at(at: datetime) -> str:
    return at.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _level(level: int) -> str:
    import logging

    return logging.getLevelName(level) if level in (10, 20, 30, 40, 50) else str(level)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 2] + " …"


def _printable(text: str) -> str:
    # What functions log may hold anything, escapes of the terminal too.
    return "".join(each if each.isprintable() or each in "\n\t" else "·" for each in text)


def _print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        print(f"{name:{width}}  {_printable(text)}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        print("none")
        return
    table = [list(head), *([_printable(cell).replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    for row in table:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())

"""`offload schedule …`: when an expression fires, and what the schedules of an application do."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]

_OF_APPLICATIONS = ("list", "history", "run", "pause", "resume")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_next(actions)
    for name, what in (
        ("list", "list schedules: what they do, their next and last runs"),
        ("history", "list the last runs of a schedule, the latest first"),
        ("run", "run a schedule now"),
        ("pause", "have schedules fire nowhere, until they are resumed"),
        ("resume", "end a pause"),
    ):
        action = actions.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        action.add_argument(
            "app",
            metavar="MODULE[:SCHEDULER]",
            help="the module with the schedules; it may name its Scheduler, such as app:scheduler",
        )
        action.add_argument("--app-dir", metavar="FOLDER", help="where it is (default: here)")
        if name in ("list", "history"):
            action.add_argument("--json", action="store_true", help="print JSON, a line for each")
        if name == "list":
            continue
        if name == "history":
            action.add_argument("name", metavar="NAME", help="name of the schedule")
            action.add_argument(
                "-n", dest="count", type=int, default=20, metavar="N", help="how many at most (20)"
            )
        elif name == "run":
            action.add_argument("name", metavar="NAME", help="name of the schedule")
            action.add_argument(
                "--wait",
                action="store_true",
                help="if it runs as a job: wait for the end, and print the result",
            )
        else:
            action.add_argument("names", nargs="+", metavar="NAME", help="name of a schedule")


def _add_next(actions: Any) -> None:
    following = actions.add_parser(
        "next",
        help="print the next fire times of a cron expression",
        description="Print the next fire times of a cron expression, one ISO 8601 instant a line.",
        epilog=(
            "Exit status: 0 if it fires, 1 if it does not any more, 2 if the expression, the zone "
            "or the instant is wrong."
        ),
    )
    following.add_argument(
        "expression",
        metavar="EXPRESSION",
        help="five fields, six with seconds first, or a word: '0 3 * * *', '@daily'",
    )
    following.add_argument(
        "--timezone", default="UTC", metavar="ZONE", help="time zone of the expression (UTC)"
    )
    following.add_argument(
        "--from",
        dest="start",
        metavar="INSTANT",
        help="list fire times after this (now); without an offset, it is in the time zone",
    )
    following.add_argument(
        "-n", dest="count", type=int, default=1, metavar="N", help="how many at most (1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    try:
        if arguments.action in _OF_APPLICATIONS:
            from offload._cli.schedules import run as run_for_application

            return run_for_application(arguments)
        return _print_next(arguments)
    except ImportError as error:
        return _refuse(str(error))


def _print_next(arguments: argparse.Namespace) -> int:
    from offload.schedules import Cron, ScheduleError

    if arguments.count < 1:
        return _refuse(f"-n must be 1 or more, not {arguments.count}")
    try:
        cron = Cron(arguments.expression, timezone=arguments.timezone)
        start = _instant(arguments.start, cron.timezone)
    except ScheduleError as error:
        return _refuse(str(error))
    following = cron.next_after(start)
    found = 0
    try:
        # One at a time: whoever asks for a million sees the first at once.
        while following is not None and found < arguments.count:
            print(following.astimezone(cron.timezone).isoformat())
            found += 1
            following = cron.next_after(following)
        sys.stdout.flush()
    except BrokenPipeError:
        # As of `… | head`. What is still in the buffer has nowhere to go at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if found else 1


def _instant(text: str | None, zone: tzinfo) -> datetime:
    from offload.schedules import ScheduleError

    if text is None:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ScheduleError(
            f"--from {text!r} is no ISO 8601 instant, such as 2026-11-30T03:00:00+01:00"
        ) from error
    return instant if instant.tzinfo else instant.replace(tzinfo=zone)


def _refuse(text: str) -> int:
    print(f"offload schedule: {text}", file=sys.stderr)
    return 2

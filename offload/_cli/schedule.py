"""`offload schedule next EXPRESSION`: when a cron expression fires."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING

from offload.schedules import Cron, ScheduleError

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
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
        "--timezone", default="UTC", metavar="ZONE", help="whose clock it follows (UTC)"
    )
    following.add_argument(
        "--from",
        dest="start",
        metavar="INSTANT",
        help="list what comes after this (now); without an offset, by the clock of the zone",
    )
    following.add_argument(
        "-n", dest="count", type=int, default=1, metavar="N", help="how many at most (1)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the fire times."""
    if arguments.count < 1:
        return _refuse(f"-n must be 1 or more, not {arguments.count}")
    try:
        cron = Cron(arguments.expression, timezone=arguments.timezone)
        start = _instant(arguments.start, cron.timezone)
    except ScheduleError as error:
        return _refuse(str(error))
    except ImportError as error:
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

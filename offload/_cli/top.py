"""`offload top [URL]`: the pools and jobs of a running server, live in the terminal."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from offload._cli.dashboard_client import DEFAULT_URL, DashboardError, fetch, state_url
from offload._cli.keys import keys

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from offload._cli.screen import Screen

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = (
        "? shows the keys, q ends it. The server must have mounted offload.dashboard.Dashboard."
    )
    parser.add_argument(
        "url",
        nargs="?",
        default=DEFAULT_URL,
        metavar="URL",
        help=f"where the dashboard is (default: {DEFAULT_URL})",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.add_argument(
        "--interval", type=_above_zero, default=1.0, metavar="SECONDS", help="between frames (1)"
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this as well, such as 'Authorization: Bearer …'",
    )


def _above_zero(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Show frames until it is told to stop."""
    try:
        headers = dict(map(_header, arguments.header))
        url = state_url(arguments.url)
    except ValueError as error:
        print(f"offload top: {error}", file=sys.stderr)
        return 2
    try:
        from offload._cli.screen import Screen

        screen = Screen(url.removesuffix("/state"))
        state = fetch(url, headers)
    except ModuleNotFoundError as error:
        print(f"offload top needs rich ({error}): pip install 'offload[cli]'", file=sys.stderr)
        return 1
    except DashboardError as error:
        print(f"offload top: {error}", file=sys.stderr)
        return 1
    if arguments.once:
        screen.print(state)
        return 0
    screen.take(state)
    with suppress(KeyboardInterrupt):
        _live(screen, url, headers, arguments.interval)
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        message = f"--header must be 'NAME: VALUE', not {text!r}"
        raise ValueError(message)
    return name.strip(), value.strip()


def _live(screen: Screen, url: str, headers: Mapping[str, str], interval: float) -> None:
    from offload._cli.top_view import Mode, View

    view = View()
    with screen.live(), keys() as pressed:
        due = time.monotonic() + interval
        while True:
            view = screen.show(view)
            for key in pressed(max(due - time.monotonic(), 0)):
                view = view.press(key, screen.state)
            if view.mode is Mode.DONE:
                return
            if time.monotonic() < due:
                continue
            try:
                screen.take(fetch(url, headers))
            except DashboardError as error:
                # A server that restarts is back in a moment: what was seen last stays.
                screen.lost(str(error))
            due = time.monotonic() + interval

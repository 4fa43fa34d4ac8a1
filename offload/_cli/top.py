"""`offload top [URL]`: the pools of a running server, live in the terminal."""

from __future__ import annotations

import json
import select
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Mapping

__all__ = ["DashboardError", "add_arguments", "fetch", "run", "state_url"]

_DEFAULT = "http://127.0.0.1:8000/dashboard"
_TIMEOUT_SECONDS = 10.0
# More than any dashboard says; whoever answers so much is none.
_MAX_BYTES = 32 << 20
_LOCAL = ("127.0.0.1", "localhost", "::1")
_FORBIDDEN = 403
_UNAUTHORIZED = 401
_NOT_FOUND = 404


class DashboardError(Exception):
    """There is no dashboard to be read; the text says what answered instead."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.epilog = "q or Ctrl+C ends it. The server has mounted offload.dashboard.Dashboard."
    parser.add_argument(
        "url",
        nargs="?",
        default=_DEFAULT,
        metavar="URL",
        help=f"where the dashboard is (default: {_DEFAULT})",
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
    else:
        with suppress(KeyboardInterrupt):
            _live(screen, state, url, headers, arguments.interval)
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        message = f"--header must be 'NAME: VALUE', not {text!r}"
        raise ValueError(message)
    return name.strip(), value.strip()


def _live(
    screen: Any, state: dict[str, Any], url: str, headers: Mapping[str, str], interval: float
) -> None:
    with screen.live(), _keys() as key:
        screen.show(state)
        while key(interval) not in ("q", "Q", "\x03", "\x1b"):
            try:
                screen.show(fetch(url, headers))
            except DashboardError as error:
                # A server that restarts is back in a moment: what was seen last stays.
                screen.lost(str(error))


@contextmanager
def _keys() -> Generator[Any]:
    """Read single keys from the terminal, where there is one; yields how to wait for one."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError):  # Windows, or input that is no terminal
        yield lambda seconds: time.sleep(seconds)  # noqa: PLW0108 - mypy: a function of any kind
        return
    except Exception as error:
        if type(error).__name__ != "error":  # termios.error is a class of its own
            raise
        yield lambda seconds: time.sleep(seconds)  # noqa: PLW0108 - as above
        return

    def key(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def state_url(url: str) -> str:
    """Return where the state of a dashboard is.

    Args:
        url: the dashboard's; a server without a path has it at /dashboard.

    Raises:
        ValueError: it is none that can be opened.
    """
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = f"{url!r} is not the URL of a server, such as {_DEFAULT}"
        raise ValueError(message)
    path = parts.path.rstrip("/") or "/dashboard"
    path = path if path.endswith("/state") else f"{path}/state"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def fetch(
    url: str, headers: Mapping[str, str] | None = None, *, timeout: float = _TIMEOUT_SECONDS
) -> dict[str, Any]:
    """Return the state that a dashboard tells.

    Args:
        url: as `state_url` returns it.
        headers: sent with the request.
        timeout: seconds for the server to answer.

    Raises:
        DashboardError: nobody answers there, or something else.
    """
    request = urllib.request.Request(url, headers=dict(headers or {}))  # noqa: S310 - http(s), see state_url
    handlers: list[Any] = []
    if urlsplit(url).hostname in _LOCAL:
        handlers.append(urllib.request.ProxyHandler({}))  # a proxy has no way to this machine
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            body = response.read(_MAX_BYTES)
    except urllib.error.HTTPError as error:
        with error:
            raise DashboardError(_refusal(url, error)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        message = (
            f"nothing answers at {url}: {reason}. Start the server, or name its dashboard: "
            "offload top http://HOST:PORT/PATH"
        )
        raise DashboardError(message) from None
    try:
        state: Any = json.loads(body)
        assert isinstance(state["pools"], list)
    except (ValueError, KeyError, TypeError, AssertionError):
        message = f"what answers at {url} is no dashboard of offload"
        raise DashboardError(message) from None
    return dict(state)


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    text = error.read(2000).decode(errors="replace").strip()
    if error.code == _NOT_FOUND:
        return (
            f"there is no dashboard at {url} (404). Mount one, "
            'Mount("/dashboard", Dashboard()) of offload.dashboard, or name the path of yours'
        )
    if error.code in (_UNAUTHORIZED, _FORBIDDEN):
        return f"{url} refuses ({error.code}): {text}. What it wants to see goes into --header"
    return f"{url} answers {error.code}: {text}"

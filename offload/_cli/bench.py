"""`offload bench`: does a path of your application stay fast while another one computes?"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from offload._bench.client import Target
from offload._bench.measure import measure
from offload._bench.report import as_html
from offload._bench.result import Settings
from offload._bench.subject import SubjectError, check_answers, running, serving
from offload._bench.text import as_json, as_text
from offload._bench.verdict import judge

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from offload._bench.subject import Subject

__all__ = ["add_arguments", "run"]

_USAGE = 2
_INTERRUPTED = 130
# Where nobody sees a line change, in the log of a CI job, it is printed anew this often.
_LINE_SECONDS = 10.0

_EPILOG = """\
examples:
  offload bench app:app --fast /ping --heavy '/report?year=2026'
  offload bench http://127.0.0.1:8000 --fast /ping --heavy /report --clients 32
  offload bench app:app --fast /ping --heavy /upload --heavy-body photo.jpg --max-ratio 1.5

exit status: 0 measured, and the limit is kept if there is one; 1 it is not; 2 nothing measured
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "subject",
        metavar="URL|MODULE:APP",
        help="a running server, or an ASGI application to serve",
    )
    parser.add_argument("--fast", required=True, metavar="PATH", help="path that shall stay fast")
    parser.add_argument("--heavy", required=True, metavar="PATH", help="path that computes")
    load = parser.add_argument_group("load")
    load.add_argument(
        "--clients", type=_count, default=8, help="heavy clients at the same time (8)"
    )
    load.add_argument(
        "--rate", type=_positive, default=200.0, help="requests for --fast per second (200)"
    )
    load.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with every request",
    )
    load.add_argument("--heavy-method", default=None, help="(GET, or POST with --heavy-body)")
    load.add_argument(
        "--heavy-body", default=None, metavar="FILE", help="body of requests for --heavy"
    )
    load.add_argument(
        "--timeout", type=_positive, default=60.0, help="seconds for one request (60)"
    )
    time_ = parser.add_argument_group("time")
    time_.add_argument(
        "--rounds",
        type=_count,
        default=5,
        help="pairs of an idle and a loaded measurement, at least (5)",
    )
    time_.add_argument(
        "--max-rounds",
        type=_count,
        default=None,
        help="pairs at most, if some are disturbed or the limit is undecided (twice --rounds)",
    )
    time_.add_argument(
        "--seconds", type=_positive, default=4.0, help="length of each measurement (4)"
    )
    time_.add_argument(
        "--warm-up", type=_seconds, default=1.0, help="seconds of load before each measurement (1)"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--max-ratio",
        type=_positive,
        default=None,
        help="fail if the p99 under load is more than this many times that of idle",
    )
    output.add_argument(
        "--html", default="offload-bench.html", metavar="FILE", help="report (%(default)s)"
    )
    output.add_argument("--no-html", action="store_true", help="no report")
    output.add_argument("--json", default=None, metavar="FILE", help="every number")
    served = parser.add_argument_group("the server")
    served.add_argument("--factory", action="store_true", help="call APP to make the application")
    served.add_argument("--app-dir", default=".", metavar="FOLDER", help="folder of MODULE (.)")
    served.add_argument(
        "--allow-remote", action="store_true", help="put load on a server on another machine"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write the report, judge."""
    try:
        return _run(arguments)
    except SubjectError as error:
        print(f"offload bench: {error}", file=sys.stderr)
        return _USAGE
    except KeyboardInterrupt:
        print("\noffload bench: interrupted; nothing was written", file=sys.stderr)
        return _INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    _check_files(arguments)
    with _subject(arguments) as subject, _Progress() as progress:
        settings = _settings(arguments, subject.base)
        progress.show("asking each path once", None)
        _, alone = check_answers(subject, [settings.fast, settings.heavy], timeout=settings.timeout)
        result = measure(subject, settings, alone_ms=alone * 1e3, tell=progress.show)
        words = subject.last_words() if result.loaded.failures or result.heavy_failures else ""
    verdict = judge(result)
    print(as_text(result, verdict))
    if words:
        print(f"\nwhat the server wrote last:\n{words}", file=sys.stderr)
    if not arguments.no_html:
        with open(arguments.html, "w", encoding="utf-8") as file:
            file.write(as_html(result, verdict))
        print(f"report: {arguments.html}")
    if arguments.json is not None:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(as_json(result, verdict), file, separators=(",", ":"), allow_nan=False)
        print(f"numbers: {arguments.json}")
    return 0 if verdict.is_passed else 1


def _check_files(arguments: argparse.Namespace) -> None:
    """Refuse now what would fail after a minute of measuring."""
    outputs = [arguments.json, None if arguments.no_html else arguments.html]
    for name in filter(None, outputs):
        folder = os.path.dirname(os.path.abspath(name))
        if os.path.isdir(name) or not os.access(folder, os.W_OK):
            raise SubjectError(f"{name} cannot be written: is there such a folder?")
    body = arguments.heavy_body
    if body is not None and not os.access(body, os.R_OK):
        raise SubjectError(f"{body} cannot be read: --heavy-body is a file")


def _subject(arguments: argparse.Namespace) -> AbstractContextManager[Subject]:
    name: str = arguments.subject
    if "://" in name:
        return running(name, is_remote_allowed=arguments.allow_remote)
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute or attribute.isdecimal():
        raise SubjectError(
            f"{name!r} is neither a URL (http://127.0.0.1:8000) nor an application (module:app)"
        )
    if find_spec("uvicorn") is None:
        raise SubjectError(
            "serving an application needs uvicorn: pip install 'offload[bench]', or start your "
            "own server and give its URL"
        )
    if not os.path.isdir(arguments.app_dir):
        raise SubjectError(f"--app-dir {arguments.app_dir}: there is no such folder")
    return serving(name, factory=arguments.factory, folder=arguments.app_dir)


def _settings(arguments: argparse.Namespace, base: str) -> Settings:
    headers: list[tuple[str, str]] = []
    for text in arguments.header:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise SubjectError(f"--header {text!r}: write 'Name: value'")
        headers.append((name.strip(), value.strip()))
    body = b""
    if arguments.heavy_body is not None:
        with open(arguments.heavy_body, "rb") as file:
            body = file.read()
    method = arguments.heavy_method or ("GET" if arguments.heavy_body is None else "POST")
    for name, path in (("--fast", arguments.fast), ("--heavy", arguments.heavy)):
        if not path.startswith("/"):
            raise SubjectError(f"{name} {path!r}: a path begins with a slash, as in /ping")
    try:
        fast = Target(base + arguments.fast, headers=tuple(headers))
        heavy = Target(base + arguments.heavy, method, tuple(headers), body)
    except ValueError as error:
        raise SubjectError(str(error)) from None
    return Settings(
        fast=fast,
        heavy=heavy,
        clients=arguments.clients,
        rate=arguments.rate,
        rounds=arguments.rounds,
        max_rounds=arguments.max_rounds or 2 * arguments.rounds,
        seconds=arguments.seconds,
        warm_up=arguments.warm_up,
        timeout=arguments.timeout,
        max_ratio=arguments.max_ratio,
        heavy_body=arguments.heavy_body,
    )


class _Progress:
    """One line on standard error that says what is being done and how long it will take."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._width = 0
        self._label = ""
        self._printed_at = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)

    def show(self, label: str, left: float | None) -> None:
        """Say it, in place of what was said before."""
        text = label if left is None else f"{label}, {_duration(left)} left"
        if self._is_terminal:
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif label != self._label and time.monotonic() - self._printed_at > _LINE_SECONDS:
            print(text, file=sys.stderr, flush=True)
            self._printed_at = time.monotonic()
        self._label = label


def _duration(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
